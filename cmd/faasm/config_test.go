package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// keysOf makes the set that loadConfig wants.
func keysOf(names ...string) map[string]bool {
	keys := map[string]bool{}
	for _, name := range names {
		keys[name] = true
	}
	return keys
}

func writeFile(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "faasm.conf")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestLoadConfig_precedence removes one source after the other, for a flag of each
// type that this program has.
func TestLoadConfig_precedence(t *testing.T) {
	type values struct {
		Listen  string
		Memory  uint64
		Drain   time.Duration
		Tracing bool
		Peers   []string
		Once    string // not a setting
	}
	args := []string{"--listen=flag:1", "--max-memory=1GiB", "--drain-timeout=1s", "--tracing=true", "--peer=flag", "--once=flag"}
	environ := []string{"FAASM_LISTEN=env:2", "FAASM_MAX_MEMORY=2GiB", "FAASM_DRAIN_TIMEOUT=2s", "FAASM_TRACING=true",
		"FAASM_PEER=env1,env2", "FAASM_ONCE=env", "FAASM_PORT=tcp://10.0.0.1:80"}
	file := "listen = file:3\nmax-memory = 3GiB\ndrain-timeout = \"3s\"\ntracing = true\npeer = file1,file2\nhost = http://for-clients\n"

	for _, test := range []struct {
		name          string
		args, environ []string
		file          string
		want          values
	}{
		{"flag over all", args, environ, file,
			values{"flag:1", 1 << 30, time.Second, true, []string{"flag"}, "flag"}},
		{"environment over file", nil, environ, file,
			values{"env:2", 2 << 30, 2 * time.Second, true, []string{"env1", "env2"}, "default"}},
		{"file over default", nil, nil, file,
			values{"file:3", 3 << 30, 3 * time.Second, true, []string{"file1", "file2"}, "default"}},
		{"default", nil, nil, "",
			values{"default:4", 4 << 30, 4 * time.Second, false, []string{"default"}, "default"}},
		{"empty variable is not set", nil, []string{"FAASM_LISTEN=", "FAASM_TRACING="}, "listen = file:3\n",
			values{"file:3", 4 << 30, 4 * time.Second, false, []string{"default"}, "default"}},
		{"last variable counts", nil, []string{"FAASM_LISTEN=first", "FAASM_LISTEN=last"}, "",
			values{"last", 4 << 30, 4 * time.Second, false, []string{"default"}, "default"}},
		{"flag set to its default is set", []string{"--listen=default:4"}, environ[:1], file[:len("listen = file:3\n")],
			values{"default:4", 4 << 30, 4 * time.Second, false, []string{"default"}, "default"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got values
			flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
			flags.StringVar(&got.Listen, "listen", "default:4", "")
			sizeVar(flags, &got.Memory, "max-memory", 4<<30, "")
			durationVar(flags, &got.Drain, "drain-timeout", 4*time.Second, "")
			flags.BoolVar(&got.Tracing, "tracing", false, "")
			flags.StringSliceVar(&got.Peers, "peer", []string{"default"}, "")
			configurable(flags)
			flags.StringVar(&got.Once, "once", "default", "")
			if err := flags.Parse(test.args); err != nil {
				t.Fatal(err)
			}
			keys := keysOf("listen", "max-memory", "drain-timeout", "tracing", "peer", "host")
			if err := loadConfig(flags, keys, test.environ, writeFile(t, test.file)); err != nil {
				t.Fatalf("load: %v", err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("args %q, environment %q, file %q (-want +got):\n%s", test.args, test.environ, test.file, diff)
			}
		})
	}
}

func TestLoadConfig_errors(t *testing.T) {
	for _, test := range []struct {
		name    string
		environ []string
		file    string
		want    string // FILE stands for the file's name
	}{
		{"bad variable", []string{"FAASM_MAX_MEMORY=much"}, "", `$FAASM_MAX_MEMORY: size "much" is not like 65536, 64KiB or 1.5GiB`},
		{"bad value", nil, "\n# x\nmax-memory = 64MB", `FILE:3: max-memory: size "64MB": MB is 1000 to some and 1024 to others; write 64MiB`},
		{"bad duration", nil, "drain-timeout=5", `FILE:1: drain-timeout: duration "5" has no unit; write 5s or 5ms`},
		{"unknown key", nil, "data-dir = /x\nmax-memorx = 1", `FILE:2: unknown key "max-memorx"; did you mean "max-memory"?`},
		{"unlike any key", nil, "frobnicate = 1", `FILE:1: unknown key "frobnicate"`},
		{"flag that is no setting", nil, "once = 1", `FILE:1: unknown key "once"`},
		{"dashes on the key", nil, "--data-dir = /x", `FILE:1: unknown key "--data-dir"; did you mean "data-dir"?`},
		{"twice", nil, "data-dir = /x\n\ndata-dir = /x", `FILE:3: data-dir is set already in line 1`},
		{"no equals sign", nil, "data-dir", `FILE:1: "data-dir" is not of the form key = value`},
		{"no key", nil, " = 1", `FILE:1: "= 1" is not of the form key = value`},
		{"section", nil, "[serve]\nlisten = x", `FILE:1: [serve]: there are no sections; write key = value`},
		{"open quotes", nil, `data-dir = "/x`, `FILE:1: data-dir: "/x: the double quotes do not match, or an escape is not known`},
		{"unknown escape", nil, `data-dir = "\q"`, `FILE:1: data-dir: "\q": the double quotes do not match, or an escape is not known`},
		{"open single quotes", nil, `data-dir = '/x`, `FILE:1: data-dir: '/x: the single quotes do not match`},
		{"text after quotes", nil, `data-dir = "/x" y`, `FILE:1: data-dir: "/x" y: nothing but a comment may follow the quotes`},
		{"control characters", nil, "\x1b[31m", `FILE:1: "\x1b[31m" is not of the form key = value`},
		{"too large", nil, strings.Repeat("# filling\n", configBytesMax/10+1), `read configuration FILE: it is larger than 1.0 MiB`},
		{"one line too large", nil, "#" + strings.Repeat("x", configBytesMax), `read configuration FILE: bufio.Scanner: token too long`},
	} {
		t.Run(test.name, func(t *testing.T) {
			flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
			flags.String("listen", "", "")
			sizeVar(flags, new(uint64), "max-memory", 0, "")
			durationVar(flags, new(time.Duration), "drain-timeout", time.Second, "")
			configurable(flags)
			flags.String("once", "", "")
			file := writeFile(t, test.file)
			err := loadConfig(flags, keysOf("listen", "max-memory", "drain-timeout", "data-dir"), test.environ, file)
			if err == nil {
				t.Fatalf("load %.40q: no error, want %q", test.file, test.want)
			}
			if got := strings.ReplaceAll(err.Error(), file, "FILE"); got != test.want {
				t.Errorf("load %.40q:\n got %q\nwant %q", test.file, got, test.want)
			}
		})
	}
}

// A value that is overridden is not looked at, so that a flag can mend a bad file.
func TestLoadConfig_overriddenValueMayBeBad(t *testing.T) {
	var memory uint64
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	sizeVar(flags, &memory, "max-memory", 0, "")
	configurable(flags)
	if err := flags.Parse([]string{"--max-memory", "64K"}); err != nil {
		t.Fatal(err)
	}
	err := loadConfig(flags, keysOf("max-memory"), []string{"FAASM_MAX_MEMORY=bad"}, writeFile(t, "max-memory = worse"))
	if err != nil || memory != 64<<10 {
		t.Errorf("got %d, %v; want %d and no error", memory, err, 64<<10)
	}
}

func TestParseConfigValue(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{``, ``},
		{`# all comment`, ``},
		{`plain`, `plain`},
		{`two words  # comment`, `two words`},
		{`http://h/#fragment`, `http://h/#fragment`},
		{`a = b`, `a = b`},
		{`"quoted # not a comment" # comment`, `quoted # not a comment`},
		{`"tab\tquote\"é"`, "tab\tquote\"é"},
		{`""`, ``},
		{`'single \n "as is"'`, `single \n "as is"`},
		{`it's`, `it's`},
	} {
		got, err := parseConfigValue(test.text)
		if err != nil || got != test.want {
			t.Errorf("parseConfigValue(%q) = %q, %v; want %q", test.text, got, err, test.want)
		}
	}
}

func TestConfigFile(t *testing.T) {
	home := t.TempDir()
	in := func(parts ...string) string { return filepath.Join(append([]string{home}, parts...)...) }
	for _, file := range []string{in(".config", "faasm", "faasm.conf"), in("xdg", "faasm", "faasm.conf")} {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name    string
		named   string
		environ []string
		want    string
	}{
		{"nothing known", "", nil, ""},
		{"home", "", []string{"HOME=" + home}, in(".config", "faasm", "faasm.conf")},
		{"home without a file", "", []string{"HOME=" + in("xdg")}, ""},
		{"xdg over home", "", []string{"HOME=" + home, "XDG_CONFIG_HOME=" + in("xdg")}, in("xdg", "faasm", "faasm.conf")},
		{"relative xdg is ignored", "", []string{"HOME=" + home, "XDG_CONFIG_HOME=xdg"}, in(".config", "faasm", "faasm.conf")},
		{"variable over xdg", "", []string{"FAASM_CONFIG=named", "XDG_CONFIG_HOME=" + in("xdg")}, "named"},
		{"flag over variable", "flagged", []string{"FAASM_CONFIG=named"}, "flagged"},
	} {
		got, err := configFile(test.named, test.environ)
		if err != nil || got != test.want {
			t.Errorf("%s: configFile(%q, %q) = %q, %v; want %q", test.name, test.named, test.environ, got, err, test.want)
		}
	}
}

// TestConfigKeys shows that one file can serve all commands: the settings of every
// command are known, and flags that are no settings are not.
func TestConfigKeys(t *testing.T) {
	root := &cobra.Command{Use: "faasm"}
	root.PersistentFlags().String("host", "", "")
	root.PersistentFlags().Bool("json", false, "")
	configurable(root.PersistentFlags(), "host")
	group := &cobra.Command{Use: "group"}
	serve := &cobra.Command{Use: "serve"}
	serve.Flags().String("listen", "", "")
	configurable(serve.Flags())
	group.AddCommand(serve)
	root.AddCommand(group)
	if diff := cmp.Diff(keysOf("host", "listen"), configKeys(root)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
}

// TestRoot_settingsHaveOneMeaning holds the promise of configurable: as one file
// serves all commands, no two commands may have different settings of one name.
func TestRoot_settingsHaveOneMeaning(t *testing.T) {
	usage := map[string]string{}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if !isConfigurable(f) {
				return
			}
			if first, ok := usage[f.Name]; ok && first != f.Usage {
				t.Errorf("setting %s of %s is %q, elsewhere %q", f.Name, c.CommandPath(), f.Usage, first)
			}
			usage[f.Name] = f.Usage
		})
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root(&env{}))
	if usage["host"] == "" || usage["tenant"] == "" {
		t.Errorf("settings are %v, want host and tenant among them", usage)
	}
}

func TestNearest(t *testing.T) {
	keys := keysOf("listen", "data-dir", "log-level", "log-format", "host")
	for _, test := range []struct{ key, want string }{
		{"", ""},
		{"x", ""},
		{"lisen", "listen"},
		{"Listen", "listen"},
		{"data_dir", "data-dir"},
		{"loglevel", "log-level"},
		{"hosts", "host"},
		{"completely-else", ""},
	} {
		if got := nearest(test.key, keys); got != test.want {
			t.Errorf("nearest(%q) = %q, want %q", test.key, got, test.want)
		}
	}
}

// FuzzParseConfig shows that no file makes the reader panic or yield a key that is
// not known.
func FuzzParseConfig(f *testing.F) {
	f.Add("listen = 1\n# x\ndata-dir = \"a\\tb\" # y\n")
	f.Add("listen='\n")
	f.Add("[x]\n=\n\"")
	f.Fuzz(func(t *testing.T, text string) {
		settings, err := parseConfig(strings.NewReader(text), "file", keysOf("listen", "data-dir"))
		if err != nil {
			if settings != nil || !strings.Contains(err.Error(), "file") {
				t.Errorf("parse %q: %v with %v", text, err, settings)
			}
			return
		}
		if len(settings) > 2 {
			t.Errorf("parse %q: %v, more than there are keys", text, settings)
		}
	})
}
