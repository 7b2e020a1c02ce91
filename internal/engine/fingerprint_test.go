package engine

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func TestFingerprint(t *testing.T) {
	base := testConfig()
	features := []string{"has_avx", "has_bmi1"}
	want := fingerprint(base, "v39.0.1", features)
	if ok, _ := regexp.MatchString(`^wasmtime39\.0\.1-linux-(amd64|arm64)-[0-9a-f]{16}$`, want); !ok {
		t.Errorf("got %q; want version, platform and 16 hexadecimal digits", want)
	}
	if got := fingerprint(base, "v39.0.1", features); got != want {
		t.Errorf("got %q the second time; want %q", got, want)
	}
	seen := map[string]string{want: "the base"}
	differs := func(what, got string) {
		if other, ok := seen[got]; ok {
			t.Errorf("%s: the same fingerprint as %s", what, other)
		}
		seen[got] = what
	}
	for what, change := range map[string]func(*Config){
		"reservation": func(c *Config) { c.Reservation *= 2 },
		"guard":       func(c *Config) { c.Guard *= 2 },
		"stack":       func(c *Config) { c.Stack *= 2 },
		"epochs":      func(c *Config) { c.Epochs = true },
	} {
		cfg := base
		change(&cfg)
		differs(what, fingerprint(cfg, "v39.0.1", features))
	}
	differs("version", fingerprint(base, "v39.0.2", features))
	differs("fewer features", fingerprint(base, "v39.0.1", features[:1]))
	differs("other features", fingerprint(base, "v39.0.1", []string{"has_avx", "has_bmi2"}))
	differs("no features", fingerprint(base, "v39.0.1", nil))

	// Which functions a host offers is no part of the code.
	base.Hosts = nil
	if got := fingerprint(base, "v39.0.1", features); got != want {
		t.Errorf("without host functions: got %q; want %q", got, want)
	}
	if got, want := newEngine(t, testConfig()).Fingerprint(), fingerprint(testConfig(), wasmtimeVersion, cpuFeatures()); got != want {
		t.Errorf("an engine's: got %q; want %q", got, want)
	}
}

func TestFingerprint_versionIsTheModules(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(mod), wasmtimeModule+" "+wasmtimeVersion+"\n") {
		t.Errorf("go.mod does not require %s %s", wasmtimeModule, wasmtimeVersion)
	}
}

// settings are hashes of the settings of fsl_engine_new, by revision.
var settings = map[int]string{
	1: "ce68df88f716ef90",
}

func TestFingerprint_settingsRevision(t *testing.T) {
	source, err := os.ReadFile("engine.c")
	if err != nil {
		t.Fatal(err)
	}
	calls := regexp.MustCompile(`wasmtime_config_\w+_set\([^)]*\)`).FindAll(source, -1)
	if len(calls) < 10 {
		t.Fatalf("found %d settings; the pattern is out of date", len(calls))
	}
	sum := sha256.Sum256(bytes.Join(calls, []byte("\n")))
	if got, want := hex.EncodeToString(sum[:8]), settings[settingsRevision]; got != want {
		t.Errorf("the settings' hash is %s, that of revision %d is %q: count settingsRevision up and add the hash here", got, settingsRevision, want)
	}
}

// An artefact says for each feature of the processor whether its code may use it. The
// fingerprint must know each of them, by this name and with this answer.
func TestFingerprint_knowsEveryFeature(t *testing.T) {
	m := compile(t, newEngine(t, testConfig()), `(module (memory 1) (memory 1 1))`)
	artefact, err := m.Serialize()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	n := 0
	for _, f := range regexp.MustCompile("(?s)(has_[a-z0-9]+)\x02([\x00\x01])").FindAllSubmatch(artefact, -1) {
		name := string(f[1])
		if name == "has_pauth" {
			continue
		}
		n++
		if f[2][0] == 1 {
			got = append(got, name)
		}
	}
	if len(codeFeatures[runtime.GOARCH]) == 0 || n != len(codeFeatures[runtime.GOARCH]) {
		t.Errorf("the artefact names %d features, the fingerprint %d", n, len(codeFeatures[runtime.GOARCH]))
	}
	slices.Sort(got)
	if want := cpuFeatures(); !slices.Equal(got, want) {
		t.Errorf("the artefact has %v; the fingerprint has %v", got, want)
	}
}
