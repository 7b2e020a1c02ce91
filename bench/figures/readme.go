package main

import (
	"errors"
	"fmt"
	"math"
	"strings"
)

// The tables lie between these lines of README.md.
const (
	begin = "<!-- figures:begin (made by make figures) -->\n"
	end   = "<!-- figures:end -->\n"
)

// replace puts the tables into the README's text.
func replace(text, tables string) (string, error) {
	before, rest, ok := strings.Cut(text, begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return "", errors.New("the lines that the figures lie between are not there")
	}
	return before + begin + tables + end + after, nil
}

// none stands for a figure that was not measured.
const none = "–"

// A cell is a text in which {file.figure} stands for a figure, with the unit behind it if
// that follows a colon: {fresh.fresh_noop_p50:us}.
func (r results) cell(text string) string {
	var out strings.Builder
	for {
		before, rest, ok := strings.Cut(text, "{")
		out.WriteString(before)
		if !ok {
			return out.String()
		}
		name, after, ok := strings.Cut(rest, "}")
		if !ok {
			panic("BUG: an open brace in " + text)
		}
		name, unit, _ := strings.Cut(name, ":")
		file, figure, _ := strings.Cut(name, ".")
		if v, ok := r.value(file, figure); ok {
			out.WriteString(number(v, unit))
		} else {
			out.WriteString(none)
		}
		text = after
	}
}

// number writes about three significant digits, and times in the unit that suits them.
func number(v float64, unit string) string {
	switch unit {
	case "us":
		switch {
		case v < 1:
			return digits(v*1000) + " ns"
		case v < 1000:
			return digits(v) + " µs"
		case v < 1e6:
			return digits(v/1000) + " ms"
		}
		return digits(v/1e6) + " s"
	case "ns":
		return number(v/1000, "us")
	case "ms":
		return number(v*1000, "us")
	case "B":
		switch {
		case v >= 1e6:
			return digits(v/1e6) + " MB"
		case v >= 1e3:
			return digits(v/1e3) + " KB"
		}
		return digits(v) + " bytes"
	case "KB":
		if v >= 1000 {
			return digits(v/1000) + " MB"
		}
		return digits(v) + " KB"
	case "":
		if v < 10 {
			return fmt.Sprintf("%.2f", v) // a ratio
		}
		return digits(v)
	}
	panic("BUG: unit " + unit)
}

func digits(v float64) string {
	switch {
	case v >= 1000:
		step := math.Pow(10, math.Floor(math.Log10(v))-2)
		return thousands(int64(math.Round(v/step) * step))
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	}
	return fmt.Sprintf("%.1f", v)
}

func thousands(n int64) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

// rows of the table: what, the figure, what is beside it in the same run, and the bench.
var rows = [][4]string{
	{"a fresh Faaslet runs a no-op, scheduler to reply", "**{fresh.fresh_noop_p50:us}** p50, {fresh.fresh_noop_p99:us} p99; {fresh.fresh_noop_cleaned_p50:us} with the cleaning after the reply", "fork+exec of a static C no-op: {fresh.forkexec_p50:us}; `crun run`: {fresh.crun_p50:us}; `runc run`: {fresh.runc_p50:us}", "fresh"},
	{"the same with a snapshot of 1 MiB, of which it writes 1 %, 10 %, all", "{fresh.fresh_1mib_p50:us}, {fresh.fresh_1mib_10pct_p50:us}, {fresh.fresh_1mib_100pct_p50:us}", "", "fresh"},
	{"of 32 MiB, of which it writes 1 %, 10 %, all", "{fresh.fresh_32mib_p50:us}, {fresh.fresh_32mib_10pct_p50:us}, {fresh.fresh_32mib_100pct_p50:us}", "", "fresh"},
	{"a language runtime with a heap of 34 MiB, to its first instruction", "**{fresh.runtime_first_p50:us}**; {fresh.runtime_cold_first_p50:us} in a region that was never mapped", "its initialisation: {fresh.runtime_init:ms}", "fresh"},
	{"the same, a whole call that writes 1 MiB of its heap", "{fresh.runtime_touch1mib_p50:us}; {fresh.runtime_cold_touch1mib_p50:us} in a region that was never mapped", "", "fresh"},
	{"fresh starts a second, as fast as they can be made", "**{churn.closed_2core}** on two cores", "on one core: {churn.closed_1core}; the paper: 4,000", "churn"},
	{"fresh starts a second, in bursts and 99 % of them ready within 1 ms of when they were due", "{churn.starts_per_s_1core} on one core, {churn.starts_per_s_2core} on two; at half of that {churn.init_p50:us} p50, {churn.init_p99:us} p99", "of its time, a loop that reads the clock loses in gaps of over 1 ms: {churn.machine_gaps_1core} % on one core, {churn.machine_gaps_2core} % of two", "churn"},
	{"memory of a live Faaslet, blocked in a host call", "**{density.pss_per_faaslet:KB}** PSS with {density.live} in one process", "dense profile: {density_dense.pss_per_faaslet:KB} with {density_dense.live}; the paper: 90 KB", "density"},
	{"chain a no-op on the same host and await it", "**{chain.chain_await_p50:us}** p50, {chain.chain_await_p99:us} p99", "1,000 at once: {chain.fanout_1000:ms}", "chain"},
	{"{chain.blocked} Faaslets blocked in `await_call`", "**{chain.blocked_threads} OS threads**", "{chain.blocked_pss:KB} each, with what they await", "chain"},
	{"`get_state` of a value that is mapped", "**{state.get_mapped_p50:us}** p50, {state.get_mapped_p99:us} p99", "to map one of 64 KiB: {state.map_64kib_p50:us}; of 16 MiB: {state.map_16mib_p50:us}, and {state.map_16mib_touched_p50:us} until each page was read", "state"},
	{"a guest copies from and to a shared value of 16 MiB", "**{state.guest_read_over_memcpy}** and **{state.guest_write_over_memcpy}** of native `memcpy`", "", "state"},
	{"pull and push a value of 1 MiB over Redis, 8 callers", "**{state.pull_over_redis}** and **{state.push_over_redis}** of `redis-benchmark`'s GET and SET", "64 KiB: {state.pull_over_redis_64kib} and {state.push_over_redis_64kib}; one caller: {state.pull_over_redis_1caller} and {state.push_over_redis_1caller}; 16 MiB: {state.pull_over_redis_16mib} and {state.push_over_redis_16mib}", "state"},
	{"push the changed bytes of 16 MiB, one in each hundredth page", "{state.push_16mib_partial:us}, {state.wire_16mib_partial:B} to Redis", "push all of it: {state.push_16mib_full:us}, {state.wire_16mib_full:B}", "state"},
	{"a lock is handed from one Faaslet to another", "on a host {state.lock_local_p50:us} p50, {state.lock_local_p99:us} p99", "a global one over Redis: {state.lock_global_p50:us} p50, {state.lock_global_p99:us} p99", "state"},
	{"a runaway guest ends after its deadline (p99)", "spinning {interrupt.stop_spin_mem_p99:ms}, recursing {interrupt.stop_recurse_p99:ms}, blocked {interrupt.stop_blocked_p99:ms}, in `memory.fill` of 64 MiB {interrupt.stop_fill_p99:ms}", "", "interrupt"},
	{"a neighbour's no-op while another tenant spins (p99)", "{interrupt.neighbour_p99:ms}", "{interrupt.neighbour_alone_p99:ms} alone", "interrupt"},
	{"36 numeric kernels over native `clang -O3` (geometric mean)", "**{compute.geomean_over_native}**; the worst {compute.worst_over_native}", "Wasmtime with epoch checks: {compute.geomean_with_epochs}; what our gates cost: {compute.gate_cost}", "compute"},
	{"a warm no-op over HTTP, 8 connections", "{call.http_rps} a second, p50 {call.http_p50:us}, p99 {call.http_p99:us}", "a bare `net/http` handler: {call.bare_rps} a second, p50 {call.bare_p50:us}, p99 {call.bare_p99:us}: **{call.http_over_bare}** of it", "call"},
}

// passes are the rows of the table that tells how data gets from one function to another:
// shared memory, chained input, the global tier in Redis, HTTP.
var passes = [][]string{
	{"1 KiB", "{state.pass_1kib_shared:us}", "{state.pass_1kib_chain:us}", "{state.pass_1kib_redis:us}", "{state.pass_1kib_http:us}"},
	{"1 MiB", "{state.pass_1mib_shared:us}", "{state.pass_1mib_chain:us}", "{state.pass_1mib_redis:us}", "{state.pass_1mib_http:us}"},
	{"64 MiB", "{state.pass_64mib_shared:us}", "{state.pass_64mib_chain:us}", "{state.pass_64mib_redis:us}", "{state.pass_64mib_http:us}"},
}

// sandboxes are the rows of the second table, which has the columns of the paper's Table 3:
// initialisation, CPU time, PSS, RSS, capacity.
var sandboxes = [][]string{
	{"Faaslet, from its Proto-Faaslet", "{fresh.fresh_noop_p50:us}", "{fresh.fresh_cpu:us}", "{density.pss_per_faaslet:KB}", "{density.rss_per_faaslet:KB}", "{density.live} and more; dense {density_dense.live} and more"},
	{"process (fork+exec)", "{fresh.forkexec_p50:us}", "{fresh.forkexec_cpu:us}", "{fresh.process_pss:KB}", "{fresh.process_rss:KB}", none},
	{"container, `crun`", "{fresh.crun_p50:us}", "{fresh.crun_cpu:us}", "{fresh.container_pss:KB}", "{fresh.container_rss:KB}", none},
	{"container, `runc`", "{fresh.runc_p50:us}", "{fresh.runc_cpu:us}", none, none, none},
	{"*the paper:* Faaslet, from its Proto-Faaslet", "500 µs", none, "90 KB", "200 KB", "> 100,000 on a host of 16 GB"},
	{"*the paper:* Docker", "2.8 s", none, "1.3 MB", "5.0 MB", "8,000"},
}

// markdown is what lies between begin and end.
func (r results) markdown() string {
	var out strings.Builder
	if f := r["fresh"]; f != nil {
		fmt.Fprintf(&out, "Measured on one machine (%s, %d cores, kernel %s), each row with its counterpart in the same run. The machine is small and shared: trust the ratios.\n\n", f.Host.CPU, f.Host.Cores, f.Host.Kernel)
	}
	out.WriteString("| what | figure | beside it, in the same run | command |\n|---|---|---|---|\n")
	for _, row := range rows {
		fmt.Fprintf(&out, "| %s | %s | %s | `faasm bench %s` |\n", r.cell(row[0]), r.cell(row[1]), r.cell(row[2]), row[3])
	}
	table := func(heading string, columns []string, rows [][]string) {
		fmt.Fprintf(&out, "\n%s:\n\n|", heading)
		for _, c := range columns {
			fmt.Fprintf(&out, " %s |", c)
		}
		out.WriteString("\n|" + strings.Repeat("---|", len(columns)) + "\n")
		for _, row := range rows {
			out.WriteString("|")
			for _, c := range row {
				fmt.Fprintf(&out, " %s |", r.cell(c))
			}
			out.WriteString("\n")
		}
	}
	table("From one function to another, until the other has seen each page (`faasm bench state`)",
		[]string{"", "shared value", "input of a chained call", "push to Redis, pull on another host", "HTTP"}, passes)
	table("A no-op in each kind of sandbox, with the columns of the paper's Table 3",
		[]string{"", "initialisation", "CPU time", "PSS", "RSS", "capacity"}, sandboxes)
	return out.String()
}
