package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	module = "github.com/faasm-go/faasm"
	root   = "../.."
)

// layers are the packages from the top down. A package may import those of the layers
// below its own, and none beside it or above.
var layers = [][]string{
	{"cmd/faasm", "test", "internal/archtest", "bench/figures"},
	{"bench"},
	{"internal/daemon"},
	{"internal/api"},
	{"internal/sched", "internal/registry", "client", "workloads", "bench/compute"},
	{"internal/faaslet"},
	{"internal/hostif", "internal/proto"},
	{"internal/state"},
	{"internal/engine", "internal/vmem", "internal/wasm", "internal/call", "internal/state/global"},
	{"internal/linux", "internal/seal", "internal/boltfile", "internal/registry/s3test", "internal/state/redistest", "internal/state/statemodel"},
}

// file is a Go file of the project.
type file struct {
	path string // from the root
	pkg  string // its package's path from the root
	test bool
	ast  *ast.File
}

func (f file) imports() []string {
	var out []string
	for _, i := range f.ast.Imports {
		out = append(out, strings.Trim(i.Path.Value, `"`))
	}
	return out
}

func files(t *testing.T) []file {
	t.Helper()
	var out []file
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && (name == "testdata" || path != root && strings.HasPrefix(name, ".") && name != "..") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		out = append(out, file{path: rel, pkg: filepath.Dir(rel), test: strings.HasSuffix(name, "_test.go"), ast: parsed})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 50 {
		t.Fatalf("found %d Go files; the walk is broken", len(out))
	}
	return out
}

func layerOf(pkg string) int {
	return slices.IndexFunc(layers, func(l []string) bool { return slices.Contains(l, pkg) })
}

func TestLayers(t *testing.T) {
	for _, f := range files(t) {
		own := layerOf(f.pkg)
		if own < 0 {
			t.Errorf("%s: package %s is in no layer; give it its place in archtest", f.path, f.pkg)
			continue
		}
		for _, imp := range f.imports() {
			pkg, ours := strings.CutPrefix(imp, module+"/")
			// A test of its own package from outside may drive it through what is above.
			if !ours || f.test && strings.HasSuffix(f.ast.Name.Name, "_test") {
				continue
			}
			if other := layerOf(pkg); other <= own && pkg != f.pkg {
				t.Errorf("%s imports %s, which is not below it", f.path, pkg)
			}
		}
	}
}

// What is dangerous has one door.
func TestDoors(t *testing.T) {
	for _, f := range files(t) {
		for _, imp := range f.imports() {
			switch imp {
			case "C":
				if f.pkg != "internal/engine" {
					t.Errorf("%s imports \"C\"; only internal/engine may", f.path)
				}
			case "unsafe":
				if !strings.HasSuffix(f.path, "_unsafe.go") {
					t.Errorf("%s imports unsafe; its name must end in _unsafe.go", f.path)
				}
			case "golang.org/x/sys/unix":
				if f.pkg != "internal/linux" && f.pkg != "internal/vmem" {
					t.Errorf("%s imports golang.org/x/sys/unix; only internal/linux and internal/vmem may", f.path)
				}
			}
		}
		if f.test || f.path == "cmd/faasm/config.go" || f.pkg == "internal/registry/s3test" || f.pkg == "internal/state/redistest" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == "os" && slices.Contains([]string{"Getenv", "LookupEnv", "Environ", "ExpandEnv"}, sel.Sel.Name) {
				t.Errorf("%s reads the environment; only cmd/faasm/config.go may", f.path)
			}
			return true
		})
	}
}

func TestPackagesHaveDocs(t *testing.T) {
	documented, seen := map[string]bool{}, map[string]bool{}
	for _, f := range files(t) {
		if f.test && f.pkg != "test" {
			continue
		}
		seen[f.pkg] = true
		if f.ast.Doc != nil && len(f.ast.Doc.Text()) > 80 {
			documented[f.pkg] = true
		}
	}
	for pkg := range seen {
		if !documented[pkg] {
			t.Errorf("package %s does not say what it is and what it is not", pkg)
		}
		for _, banned := range []string{"util", "utils", "common", "helpers", "models", "misc"} {
			if filepath.Base(pkg) == banned {
				t.Errorf("package %s: a package is named after the thing it holds", pkg)
			}
		}
	}
}

func TestNoLooseEnds(t *testing.T) {
	loose := regexp.MustCompile(`\b(TODO|FIXME|XXX)\b`)
	for _, f := range files(t) {
		for _, group := range f.ast.Comments {
			for _, c := range group.List {
				if loose.MatchString(c.Text) {
					t.Errorf("%s: %s: write an issue instead", f.path, strings.TrimSpace(c.Text))
				}
			}
		}
	}
}

// Each promise of SPECIFICATION.md names the tests or benches that show it, or says that
// it is pending; and what it names exists.
func TestSpecification(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "SPECIFICATION.md"))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, f := range files(t) {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && f.test {
				known[fn.Name.Name] = true
			}
		}
	}
	benches, err := os.ReadFile(filepath.Join(root, "bench/bench.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`\{"(\w+)", "`).FindAllStringSubmatch(string(benches), -1) {
		known["faasm bench "+m[1]] = true
	}
	security, err := os.ReadFile(filepath.Join(root, "SECURITY.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(string(security), -1) {
		if !known[m[1]] {
			t.Errorf("SECURITY.md names %s, which does not exist", m[1])
		}
	}
	promises := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "|") || len(cells) != 2 || strings.Contains(cells[1], "---") || strings.TrimSpace(cells[1]) == "shown by" {
			continue
		}
		promises++
		shown := strings.TrimSpace(cells[1])
		if shown == "pending" {
			continue
		}
		names := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(shown, -1)
		if len(names) == 0 {
			t.Errorf("%q is neither shown by anything nor pending", strings.TrimSpace(cells[0]))
		}
		for _, n := range names {
			if !known[n[1]] {
				t.Errorf("%q is shown by %s, which does not exist", strings.TrimSpace(cells[0]), n[1])
			}
		}
	}
	if promises < 40 {
		t.Errorf("found %d promises; the table is broken", promises)
	}
}
