package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// envPrefix begins the name of every environment variable that this program reads
// for itself; the other two it reads are XDG_CONFIG_HOME and HOME, to find the file.
const envPrefix = "FAASM_"

// configBytesMax bounds the configuration file, so that a wrong path (a device, a
// disk image) ends in an error and not in a full memory.
const configBytesMax = 1 << 20

// configAnnotation marks the flags that may also be set from the environment and
// from the configuration file.
const configAnnotation = "faasm/config"

// environment returns the process's environment. It is the program's one look at it:
// everything else is handed the result.
func environment() []string { return os.Environ() }

// configurable marks the named flags of flags, or all that are defined so far if no
// name is given, as settings: each may come from the command line, from the
// environment variable FAASM_NAME, from the line "name = value" of the configuration
// file, or be left at its default, and the first of these wins.
//
// Only what stays the same from one command to the next should be a setting. A name
// has one meaning in the whole program, because one file serves all commands.
func configurable(flags *pflag.FlagSet, names ...string) {
	if len(names) == 0 {
		flags.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	}
	for _, name := range names {
		f := flags.Lookup(name)
		if f == nil {
			panic("BUG: configurable flag " + name + " is not defined")
		}
		if err := flags.SetAnnotation(name, configAnnotation, nil); err != nil {
			panic("BUG: annotate flag " + name + ": " + err.Error())
		}
		f.Usage += " [$" + envName(name) + "]"
	}
}

// isConfigurable tells whether f is a setting.
func isConfigurable(f *pflag.Flag) bool {
	_, ok := f.Annotations[configAnnotation]
	return ok
}

// envName is the environment variable of a setting: data-dir is FAASM_DATA_DIR.
func envName(name string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// configKeys returns the names of the settings of root and of all commands below it.
func configKeys(root *cobra.Command) map[string]bool {
	keys := map[string]bool{}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, flags := range []*pflag.FlagSet{c.Flags(), c.PersistentFlags()} {
			flags.VisitAll(func(f *pflag.Flag) {
				if isConfigurable(f) {
					keys[f.Name] = true
				}
			})
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	return keys
}

// loadConfig sets each setting in flags that the command line left alone, from
// environ if its variable is there and not empty, and else from file. An empty file
// name stands for no file. keys are the settings of all commands: the file may set
// any of them, and one that flags does not have is skipped.
//
// Variables that begin with FAASM_ but name no setting are passed over: Kubernetes
// injects such names (FAASM_PORT, FAASM_SERVICE_HOST) for a service called faasm.
//
// After an error, flags may hold some of the values.
func loadConfig(flags *pflag.FlagSet, keys map[string]bool, environ []string, file string) error {
	vars := envMap(environ)
	var firstErr error
	flags.VisitAll(func(f *pflag.Flag) {
		value := vars[envName(f.Name)]
		if f.Changed || !isConfigurable(f) || value == "" || firstErr != nil {
			return
		}
		if err := f.Value.Set(value); err != nil {
			firstErr = fmt.Errorf("$%s: %w", envName(f.Name), err)
			return
		}
		f.Changed = true
	})
	if firstErr != nil || file == "" {
		return firstErr
	}
	settings, err := readConfig(file, keys)
	if err != nil {
		return err
	}
	for _, s := range settings {
		f := flags.Lookup(s.key)
		if f == nil || f.Changed || !isConfigurable(f) {
			continue
		}
		if err := f.Value.Set(s.value); err != nil {
			return fmt.Errorf("%s:%d: %s: %w", file, s.line, s.key, err)
		}
		f.Changed = true
	}
	return nil
}

// configFile returns the configuration file to read: named, which comes from
// --config, or $FAASM_CONFIG, or else faasm/faasm.conf in the user's configuration
// directory, or "" if nothing is there. A file that somebody named must exist; the
// last need not.
func configFile(named string, environ []string) (string, error) {
	vars := envMap(environ)
	if named == "" {
		named = vars[envPrefix+"CONFIG"]
	}
	if named != "" {
		return named, nil
	}
	dir := vars["XDG_CONFIG_HOME"]
	// The XDG specification has relative paths ignored.
	if !filepath.IsAbs(dir) {
		if vars["HOME"] == "" {
			return "", nil
		}
		dir = filepath.Join(vars["HOME"], ".config")
	}
	file := filepath.Join(dir, "faasm", "faasm.conf")
	switch _, err := os.Stat(file); {
	case err == nil:
		return file, nil
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	default:
		return "", err
	}
}

// envMap splits "NAME=value" pairs. Of a name that comes twice, the last counts, as
// it does for a child process.
func envMap(environ []string) map[string]string {
	vars := make(map[string]string, len(environ))
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok {
			vars[name] = value
		}
	}
	return vars
}

// setting is one line of a configuration file.
type setting struct {
	key, value string
	line       int // from 1
}

// readConfig reads file; see parseConfig.
func readConfig(file string, keys map[string]bool) ([]setting, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	return parseConfig(f, file, keys)
}

// parseConfig reads lines of "key = value", where each key is in keys and comes at
// most once. Empty lines and what follows a # at the start of a line or after a blank
// are passed over. A value may be bare, in double quotes with Go's escapes, or in
// single quotes as it stands: so each file that is read is nearly TOML, without
// tables. Errors begin with "name:line:".
func parseConfig(r io.Reader, name string, keys map[string]bool) ([]setting, error) {
	limited := &io.LimitedReader{R: r, N: configBytesMax + 1}
	var settings []setting
	seen := map[string]int{}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, configBytesMax+1)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		if text[0] == '[' {
			return nil, fmt.Errorf("%s:%d: %s: there are no sections; write key = value", name, n, printable(text))
		}
		key, rest, ok := strings.Cut(text, "=")
		key = strings.TrimSpace(key)
		if !ok || key == "" {
			return nil, fmt.Errorf("%s:%d: %q is not of the form key = value", name, n, text)
		}
		if !keys[key] {
			hint := ""
			if near := nearest(key, keys); near != "" {
				hint = fmt.Sprintf("; did you mean %q?", near)
			}
			return nil, fmt.Errorf("%s:%d: unknown key %q%s", name, n, key, hint)
		}
		if first := seen[key]; first != 0 {
			return nil, fmt.Errorf("%s:%d: %s is set already in line %d", name, n, key, first)
		}
		seen[key] = n
		value, err := parseConfigValue(strings.TrimSpace(rest))
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %s: %w", name, n, key, err)
		}
		settings = append(settings, setting{key: key, value: value, line: n})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", name, err)
	}
	if limited.N == 0 {
		return nil, fmt.Errorf("read configuration %s: it is larger than %s", name, formatSize(configBytesMax))
	}
	return settings, nil
}

// parseConfigValue reads what is right of the equals sign, without blanks around it.
func parseConfigValue(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	var value, rest string
	switch quote := text[0]; quote {
	case '"':
		prefix, err := strconv.QuotedPrefix(text)
		if err != nil {
			return "", fmt.Errorf("%s: the double quotes do not match, or an escape is not known", printable(text))
		}
		if value, err = strconv.Unquote(prefix); err != nil {
			return "", fmt.Errorf("%s: %w", prefix, err)
		}
		rest = text[len(prefix):]
	case '\'':
		end := strings.IndexByte(text[1:], '\'')
		if end < 0 {
			return "", fmt.Errorf("%s: the single quotes do not match", printable(text))
		}
		value, rest = text[1:1+end], text[2+end:]
	default:
		value = text
		for i := range len(text) {
			if text[i] == '#' && (i == 0 || text[i-1] == ' ' || text[i-1] == '\t') {
				value = strings.TrimSpace(text[:i])
				break
			}
		}
	}
	if rest = strings.TrimSpace(rest); rest != "" && rest[0] != '#' {
		return "", fmt.Errorf("%s: nothing but a comment may follow the quotes", printable(text))
	}
	return value, nil
}

// nearest returns the key that key is most likely a misspelling of, or "" if none is
// close. Of equally close ones it returns the first in the alphabet.
func nearest(key string, keys map[string]bool) string {
	best, bestDistance := "", 1+max(1, len(key)/3)
	for candidate := range keys {
		d := editDistance(key, candidate)
		if d < bestDistance || d == bestDistance && best != "" && candidate < best {
			best, bestDistance = candidate, d
		}
	}
	return best
}

// editDistance is Levenshtein's: how many bytes to insert, delete or replace.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
