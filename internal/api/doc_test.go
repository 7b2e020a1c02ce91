package api

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/faasm-go/faasm/client"
)

// document is as much of OpenAPI as the tests compare.
type document struct {
	OpenAPI    string `json:"openapi"`
	Paths      map[string]map[string]operation
	Components struct {
		Parameters map[string]parameter
		Headers    map[string]any
		Schemas    map[string]struct {
			Enum       []string
			Required   []string
			Properties map[string]any
		}
	}
}

type operation struct {
	OperationID string
	Parameters  []parameter
	Responses   map[string]struct {
		Description  string
		Headers      map[string]any
		Content      map[string]any
		ProblemCodes []string `json:"x-problem-codes"`
	}
}

type parameter struct {
	Ref      string `json:"$ref"`
	Name, In string
	Required bool
}

func readDocument(t *testing.T) (doc document, raw any) {
	t.Helper()
	if err := json.Unmarshal(openAPI, &doc); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(openAPI, &raw); err != nil {
		t.Fatal(err)
	}
	return doc, raw
}

func TestOpenAPI_hasExactlyTheRoutes(t *testing.T) {
	doc, _ := readDocument(t)
	if !strings.HasPrefix(doc.OpenAPI, "3.1.") {
		t.Errorf("OpenAPI version %q", doc.OpenAPI)
	}
	var served, documented []string
	for _, rt := range routes {
		served = append(served, rt.method+" "+rt.pattern)
	}
	ids := map[string]bool{}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			documented = append(documented, strings.ToUpper(method)+" "+path)
			if op.OperationID == "" || ids[op.OperationID] {
				t.Errorf("%s %s: operationId %q is empty or not unique", method, path, op.OperationID)
			}
			ids[op.OperationID] = true
		}
	}
	slices.Sort(served)
	slices.Sort(documented)
	if diff := cmp.Diff(served, documented); diff != "" {
		t.Errorf("routes (-served +documented):\n%s", diff)
	}
}

func TestOpenAPI_parameters(t *testing.T) {
	doc, _ := readDocument(t)
	h := New(nil, Options{})
	for path, methods := range doc.Paths {
		for method, op := range methods {
			inPath, inQuery := map[string]bool{}, map[string]bool{}
			for _, p := range op.Parameters {
				if p.Ref != "" {
					p = doc.Components.Parameters[strings.TrimPrefix(p.Ref, "#/components/parameters/")]
				}
				switch p.In {
				case "path":
					inPath[p.Name] = true
					if !p.Required {
						t.Errorf("%s %s: path parameter %s is not required", method, path, p.Name)
					}
				case "query":
					inQuery[p.Name] = true
				}
			}
			for _, segment := range strings.Split(path, "/") {
				if name, ok := strings.CutPrefix(segment, "{"); ok {
					name = strings.TrimSuffix(name, "}")
					if !inPath[name] {
						t.Errorf("%s %s: path parameter %s is not described", method, path, name)
					}
					delete(inPath, name)
				}
			}
			if len(inPath) != 0 {
				t.Errorf("%s %s: describes path parameters that are not there: %v", method, path, inPath)
			}
			if !strings.HasPrefix(path, "/v1/") && !strings.HasPrefix(path, "/f/") {
				continue
			}
			// The refusal of an unknown query parameter names the known ones.
			target := strings.NewReplacer("{tenant}", "t", "{function}", "f", "{key}", "k", "{id}", strings.Repeat("0", 32)).Replace(path)
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, httptest.NewRequest(strings.ToUpper(method), target+"?nonsense=1", nil))
			_, list, _ := strings.Cut(rec.Body.String(), `is not one of `)
			list, _, _ = strings.Cut(list, `"`)
			served := map[string]bool{}
			for name := range strings.SplitSeq(list, ", ") {
				if name != "" {
					served[name] = true
				}
			}
			if rec.Code != 400 {
				t.Errorf("%s %s: status %d for an unknown query parameter", method, path, rec.Code)
			}
			if diff := cmp.Diff(served, inQuery); diff != "" {
				t.Errorf("%s %s: query parameters (-served +documented):\n%s", method, path, diff)
			}
		}
	}
}

func TestOpenAPI_problems(t *testing.T) {
	doc, _ := readDocument(t)
	var all []string
	for i := range kinds {
		all = append(all, string(kinds[i].code))
	}
	if diff := cmp.Diff(all, doc.Components.Schemas["Code"].Enum); diff != "" {
		t.Errorf("problem codes (-served +documented):\n%s", diff)
	}
	used := map[string]bool{"method-not-allowed": true} // of paths as a whole
	for path, methods := range doc.Paths {
		for method, op := range methods {
			for status, response := range op.Responses {
				_, isProblem := response.Content["application/problem+json"]
				if isProblem != (status >= "400") || isProblem != (len(response.ProblemCodes) > 0) {
					t.Errorf("%s %s: response %s: problem codes %v, content %v", method, path, status, response.ProblemCodes, slices.Collect(maps.Keys(response.Content)))
				}
				for _, code := range response.ProblemCodes {
					used[code] = true
					k := kindByCode[client.Code(code)]
					if k == nil || strconv.Itoa(k.status) != status {
						t.Errorf("%s %s: response %s is said to have problem %s", method, path, status, code)
					}
				}
			}
		}
	}
	for _, code := range all {
		if !used[code] {
			t.Errorf("no operation is said to have problem %s", code)
		}
	}
}

func TestOpenAPI_referencesResolve(t *testing.T) {
	_, raw := readDocument(t)
	var refs int
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				refs++
				at := raw
				for _, step := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
					m, _ := at.(map[string]any)
					at = m[step]
				}
				if at == nil {
					t.Errorf("nothing at %s", ref)
				}
			}
			for _, child := range v {
				walk(child)
			}
		case []any:
			for _, child := range v {
				walk(child)
			}
		}
	}
	walk(raw)
	if refs == 0 {
		t.Error("the document has no references")
	}
}

// The codes that a client can name, those that the host sends, and the pages are one
// list. It reads the constants from the source, so that a new one cannot be left out.
func TestProblems_vocabularyIsWhole(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../../client/wire.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var inClient []string
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.CONST {
			continue
		}
		for _, spec := range gen.Specs {
			v := spec.(*ast.ValueSpec)
			if typ, ok := v.Type.(*ast.Ident); ok && typ.Name == "Code" {
				code, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				inClient = append(inClient, code)
			}
		}
	}
	var served []string
	h := New(nil, Options{})
	for i := range kinds {
		k := &kinds[i]
		served = append(served, string(k.code))
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest("GET", "/problems/"+string(k.code), nil))
		page := rec.Body.String()
		if rec.Code != 200 || rec.Header().Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("page of %s: status %d, type %s", k.code, rec.Code, rec.Header().Get("Content-Type"))
		}
		for _, want := range []string{string(k.code), k.title, strconv.Itoa(k.status), "What to do: "} {
			if !strings.Contains(page, want) {
				t.Errorf("page of %s lacks %q:\n%s", k.code, want, page)
			}
		}
		if len(k.meaning) < 20 || len(k.remedy) < 20 || http.StatusText(k.status) == "" {
			t.Errorf("page of %s says too little:\n%s", k.code, page)
		}
	}
	if diff := cmp.Diff(inClient, served); diff != "" {
		t.Errorf("codes (-client +served):\n%s", diff)
	}
}

// The contract's codes and statuses, written out: changing one breaks clients.
func TestProblems_statuses(t *testing.T) {
	want := map[string]int{
		"bad-request": 400, "bad-name": 400, "cross-origin": 403, "not-found": 404, "method-not-allowed": 405, "no-such-function": 404, "no-such-call": 404,
		"no-such-version": 404, "no-previous-version": 409,
		"not-finished": 409, "too-large": 413, "invalid-module": 422, "unknown-import": 422, "limit-too-small": 422, "initialisation-failed": 422,
		"overloaded": 429, "cancelled": 409, "trap": 500, "return-code": 500, "memory-limit": 507, "deadline": 504, "host-lost": 502,
		"draining": 503, "internal": 500,
		"bad-key": 400, "no-such-value": 404, "version-mismatch": 412, "fenced": 412, "range-not-satisfiable": 416, "conflict": 409, "lock-timeout": 423,
		"quota": 507, "state-full": 507, "state-damaged": 500, "state-unavailable": 503,
	}
	got := map[string]int{}
	for i := range kinds {
		got[string(kinds[i].code)] = kinds[i].status
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
}

// The schemas have the members that the Go types write, and require those that are
// always written.
func TestOpenAPI_schemasAreTheWireTypes(t *testing.T) {
	doc, _ := readDocument(t)
	for name, v := range map[string]any{
		"CallInfo": client.CallInfo{}, "CallList": client.CallList{}, "FunctionInfo": client.FunctionInfo{}, "FunctionList": client.FunctionList{},
		"StateInfo": client.StateInfo{}, "StateEntry": client.StateEntry{}, "StateUsage": client.StateUsage{}, "StateList": client.StateList{}, "LockEvent": client.LockEvent{},
		"VersionList": client.VersionList{}, "WarmInfo": client.WarmInfo{}, "CollectInfo": client.CollectInfo{},
		"HostInfo": client.HostInfo{}, "Usage": client.Usage{}, "Failure": client.Failure{}, "Frame": client.Frame{}, "Problem": client.Problem{},
	} {
		var members, required []string
		for field := range reflect.TypeOf(v).Fields() {
			member, options, _ := strings.Cut(field.Tag.Get("json"), ",")
			if member == "-" {
				continue
			}
			members = append(members, member)
			if !strings.Contains(options, "omit") {
				required = append(required, member)
			}
		}
		slices.Sort(members)
		slices.Sort(required)
		schema := doc.Components.Schemas[name]
		if diff := cmp.Diff(members, slices.Sorted(maps.Keys(schema.Properties))); diff != "" {
			t.Errorf("%s: members (-Go +document):\n%s", name, diff)
		}
		if diff := cmp.Diff(required, slices.Sorted(slices.Values(schema.Required))); diff != "" {
			t.Errorf("%s: required members (-Go +document):\n%s", name, diff)
		}
	}
}
