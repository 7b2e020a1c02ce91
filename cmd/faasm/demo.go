package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/daemon"
	"github.com/faasm-go/faasm/workloads"
)

func newDemoCommand(e *env) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show what this is, in ten seconds",
		Long: `Starts a host in this process on a free port, deploys the example functions that
are built into this binary, calls them over HTTP with real input, shows what came of it,
and leaves nothing behind but the picture that one of them draws.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return e.demo(cmd.Context(), dir) },
	}
	cmd.Flags().StringVar(&dir, "pictures", os.TempDir(), "`directory` to leave the picture in")
	return cmd
}

// demo is the whole demonstration.
func (e *env) demo(ctx context.Context, pictures string) error {
	h, err := daemon.NewEmbedded(daemon.Options{})
	if err != nil {
		return err
	}
	defer h.Close()
	d := &demo{env: e, url: h.URL(), pictures: pictures}
	if d.client, err = client.New(d.url, client.Options{}); err != nil {
		return err
	}
	defer d.client.Close()
	for _, step := range []func(context.Context) error{d.deploy, d.hello, d.wordcount, d.pi, d.picture, d.lisp, d.fresh, d.share, d.speed, d.runaway, d.trap} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return e.printf("\nNext: %s, then %s.\n", `"faasm serve" in one terminal`, `"faasm deploy FILE.wasm" and "faasm invoke NAME" in another`)
}

type demo struct {
	*env
	client   *client.Client
	url      string
	pictures string
}

func (d *demo) title(format string, args ...any) {
	fmt.Fprintf(d.stdout, "\n\u25b8 "+format+"\n", args...)
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.stdout, "  "+format+"\n", args...) }

// invoke calls a function and tells what it cost.
func (d *demo) invoke(ctx context.Context, name string, input []byte) (*client.Reply, time.Duration, error) {
	start := time.Now()
	r, err := d.client.Invoke(ctx, "", name, bytes.NewReader(input), client.InvokeOptions{})
	return r, time.Since(start), err
}

func (d *demo) cost(r *client.Reply, took time.Duration) {
	d.say("fresh Faaslet in %s, run in %s, reply over HTTP in %s, %s of memory", formatMicros(r.Usage.StartUs),
		formatMicros(float64(r.Usage.WallUs)), formatDuration(took), formatSize(r.Usage.MemoryBytes))
}

func (d *demo) deploy(ctx context.Context) error {
	d.title("A host at %s, and eleven functions", d.url)
	for _, name := range []string{"hello", "wordcount", "pi", "mandelbrot", "lisp", "counter_init", "state_share_writer", "state_share_reader", "noop", "hostile_spin_mem", "hostile_trap"} {
		wasm := workloads.Wasm(name)
		opts := client.DeployOptions{}
		if name == "hostile_spin_mem" {
			opts.Timeout = 250 * time.Millisecond
		}
		info, _, err := d.client.Deploy(ctx, "", name, bytes.NewReader(wasm), opts)
		if err != nil {
			return err
		}
		initialised := ""
		if info.Initialised {
			initialised = ", initialised in " + formatMicros(info.InitialiseMs*1e3)
		}
		d.say("deployed %-18s %8s of Wasm, compiled in %s%s", name, formatSize(uint64(info.WasmBytes)), formatMicros(info.CompileMs*1e3), initialised)
	}
	return nil
}

func (d *demo) hello(ctx context.Context) error {
	d.title("hello: any WASI command is a function; its stdin is the input")
	r, took, err := d.invoke(ctx, "hello", []byte("world"))
	if err != nil {
		return err
	}
	d.say("%s", strings.TrimSpace(string(r.Output)))
	d.cost(r, took)
	return nil
}

func (d *demo) wordcount(ctx context.Context) error {
	text := workloads.Text()
	d.title("wordcount: splits a real text (%s) and chains one Faaslet a part", formatSize(uint64(len(text))))
	r, took, err := d.invoke(ctx, "wordcount", text)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(r.Output)), "\n")
	d.say("%s ...", strings.Join(lines[:min(8, len(lines))], ", "))
	d.cost(r, took)
	return nil
}

func (d *demo) pi(ctx context.Context) error {
	d.title("pi: 4,000,000 samples, 16 chained Faaslets")
	r, took, err := d.invoke(ctx, "pi", []byte("4000000 16"))
	if err != nil {
		return err
	}
	d.say("pi is about %s", strings.TrimSpace(string(r.Output)))
	d.cost(r, took)
	return nil
}

func (d *demo) picture(ctx context.Context) error {
	d.title("mandelbrot: returns a picture")
	r, took, err := d.invoke(ctx, "mandelbrot", []byte("640 480"))
	if err != nil {
		return err
	}
	file := filepath.Join(d.pictures, "faasm-mandelbrot.png")
	if err := os.WriteFile(file, r.Output, 0o644); err != nil {
		return fmt.Errorf("write picture: %w", err)
	}
	d.say("%s (%s, %s)", file, r.ContentType, formatSize(uint64(len(r.Output))))
	d.cost(r, took)
	return nil
}

func (d *demo) lisp(ctx context.Context) error {
	info, err := d.client.Function(ctx, "", "lisp")
	if err != nil {
		return err
	}
	d.title("lisp: an interpreter that sets up %s of tables, once; each call starts from that", formatSize(uint64(info.SnapshotBytes)))
	const program = "(factor 600851475143)"
	r, took, err := d.invoke(ctx, "lisp", []byte(program))
	if err != nil {
		return err
	}
	d.say("%s is %s", program, strings.TrimSpace(string(r.Output)))
	d.cost(r, took)
	return nil
}

func (d *demo) fresh(ctx context.Context) error {
	d.title("counter_init: adds one to a variable that initialisation set to 100; every call starts from the snapshot")
	var got []string
	for range 5 {
		r, _, err := d.invoke(ctx, "counter_init", nil)
		if err != nil {
			return err
		}
		got = append(got, strings.TrimSpace(string(r.Output)))
	}
	d.say("five calls say: %s", strings.Join(got, " "))
	return nil
}

func (d *demo) share(ctx context.Context) error {
	d.title("state_share_writer and _reader: two functions map one value of 4 MB; nothing is copied")
	for _, step := range []struct{ name, input string }{{"state_share_writer", "1000000"}, {"state_share_reader", ""}} {
		r, took, err := d.invoke(ctx, step.name, []byte(step.input))
		if err != nil {
			return err
		}
		d.say("%s", strings.TrimSpace(string(r.Output)))
		d.cost(r, took)
	}
	return nil
}

func (d *demo) speed(ctx context.Context) error {
	const n = 2000
	d.title("noop: %d calls, one after the other", n)
	var starts, replies []float64
	for range n {
		r, took, err := d.invoke(ctx, "noop", nil)
		if err != nil {
			return err
		}
		starts = append(starts, r.Usage.StartUs)
		replies = append(replies, float64(took.Nanoseconds())/1e3)
	}
	quantile := func(v []float64, p float64) string {
		slices.Sort(v)
		return formatMicros(v[int(p*float64(len(v)-1))])
	}
	d.say("fresh Faaslet: median %s, p99 %s", quantile(starts, 0.5), quantile(starts, 0.99))
	d.say("call over HTTP: median %s, p99 %s", quantile(replies, 0.5), quantile(replies, 0.99))
	return nil
}

func (d *demo) runaway(ctx context.Context) error {
	d.title("hostile_spin_mem: never returns; its timeout is 250 ms")
	return d.failure(ctx, "hostile_spin_mem", client.CodeDeadline)
}

func (d *demo) trap(ctx context.Context) error {
	d.title("hostile_trap: aborts, three functions deep")
	return d.failure(ctx, "hostile_trap", client.CodeTrap)
}

// failure calls a function that must fail, and shows what its author would see.
func (d *demo) failure(ctx context.Context, name string, want client.Code) error {
	_, took, err := d.invoke(ctx, name, nil)
	var p *client.Problem
	if !errors.As(err, &p) || p.Code != want {
		return fmt.Errorf("%s: got %w, want the problem %s", name, err, want)
	}
	d.say("HTTP %d after %s: %s", p.Status, formatDuration(took), p.Detail)
	for _, f := range p.Backtrace {
		d.say("  at %s", frameText(f))
	}
	return nil
}
