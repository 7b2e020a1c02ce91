package wasm

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// activeAt encodes an active data segment.
func activeAt(offset int, data string) []byte {
	return cat(0, byte(opI32Const), sleb(int64(offset)), byte(opEnd), data)
}

func TestImage(t *testing.T) {
	global := section(secGlobal, vec(
		cat(I32, 0, byte(opI32Const), sleb(40), byte(opEnd)),
		// 40 * 3 - 10 + 2 = 112
		cat(I32, 0, raw(opGlobalGet, 0, opI32Const, 3, opI32Mul, opI32Const, 10, opI32Sub, opI32Const, 2, opI32Add, opEnd)),
	))
	rows := []struct {
		name string
		data [][]byte
		want []Segment
	}{
		{"overlap, later over earlier", [][]byte{activeAt(10, "aaaa"), activeAt(12, "bbbb")}, []Segment{{10, []byte("aabbbb")}}},
		{"overlap, later below earlier", [][]byte{activeAt(12, "bbbb"), activeAt(10, "aaaa")}, []Segment{{10, []byte("aaaabb")}}},
		{"hidden by a later one", [][]byte{activeAt(12, "b"), activeAt(10, "aaaa")}, []Segment{{10, []byte("aaaa")}}},
		{"within an earlier one", [][]byte{activeAt(10, "aaaa"), activeAt(12, "b")}, []Segment{{10, []byte("aaba")}}},
		{"at the same place", [][]byte{activeAt(10, "a"), activeAt(10, "b"), activeAt(10, "c")}, []Segment{{10, []byte("c")}}},
		{"chain", [][]byte{activeAt(14, "ccc"), activeAt(12, "bbb"), activeAt(10, "aaa")}, []Segment{{10, []byte("aaabbcc")}}},
		{"two groups", [][]byte{activeAt(50, "xx"), activeAt(10, "aa"), activeAt(51, "yy"), activeAt(11, "bb")}, []Segment{{10, []byte("abb")}, {50, []byte("xyy")}}},
		{"side by side", [][]byte{activeAt(10, "aa"), activeAt(12, "bb")}, []Segment{{10, []byte("aa")}, {12, []byte("bb")}}},
		{"out of order", [][]byte{activeAt(12, "bb"), activeAt(0, "aa")}, []Segment{{0, []byte("aa")}, {12, []byte("bb")}}},
		{"empty ones", [][]byte{activeAt(0, ""), activeAt(65_536, ""), activeAt(5, "a"), activeAt(5, "")}, []Segment{{5, []byte("a")}}},
		{"zeros stay", [][]byte{activeAt(5, "a\x00\x00b")}, []Segment{{5, []byte("a\x00\x00b")}}},
		{"to the last byte", [][]byte{activeAt(65_534, "ab")}, []Segment{{65_534, []byte("ab")}}},
		{"passive stays out", [][]byte{cat(1, "abc")}, nil},
		{"memory named", [][]byte{cat(2, 0, raw(opI32Const, 3, opEnd), "abc")}, []Segment{{3, []byte("abc")}}},
		{"offset of a global", [][]byte{cat(0, raw(opGlobalGet, 0, opEnd), "abc")}, []Segment{{40, []byte("abc")}}},
		{"offset of an expression", [][]byte{cat(0, raw(opGlobalGet, 1, opEnd), "abc")}, []Segment{{112, []byte("abc")}}},
		{"offset that wraps", [][]byte{cat(0, raw(opI32Const, 0x7f, opI32Const, 5, opI32Add, opEnd), "abc")}, []Segment{{4, []byte("abc")}}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			p := must(t, binaryOf(section(secMemory, vec(raw(0, 1))), global, section(secData, vec(row.data...))))
			if len(row.want) == 0 && len(p.Image) == 0 {
				return
			}
			if diff := cmp.Diff(row.want, p.Image); diff != "" {
				t.Errorf("image (-want +got):\n%s", diff)
			}
		})
	}
}

// TestImage_random compares with a model; see checkImage.
func TestImage_random(t *testing.T) {
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 2))
		data := make([][]byte, rng.IntN(40))
		span := 1 << (3 + rng.IntN(13))
		for i := range data {
			b := randomBytes(rng, rng.IntN(min(span, 100)))
			data[i] = activeAt(rng.IntN(span-len(b)), string(b))
		}
		bin := binaryOf(section(secMemory, vec(raw(0, 1))), section(secData, vec(data...)))
		p, err := Prepare(bin, Options{})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := checkPrepared(bin, p); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// TestImage_aboveHalf has data where a signed 32-bit offset is negative.
func TestImage_aboveHalf(t *testing.T) {
	bin := binaryOf(section(secMemory, vec(cat(0, maxMemoryPages))), section(secData, vec(activeAt(-0x10000-2, "ab"))))
	want := []Segment{{maxMemoryPages*PageSize - 2, []byte("ab")}}
	if diff := cmp.Diff(want, must(t, bin).Image); diff != "" {
		t.Errorf("image (-want +got):\n%s", diff)
	}
}

func TestPrepare_emptiesDataThatCodeNames(t *testing.T) {
	sections := func(body []byte) []byte {
		return binaryOf(
			section(secType, vec(funcType(nil, nil))),
			section(secFunction, vec(raw(0))),
			section(secMemory, vec(raw(0, 1))),
			section(secDataCount, 3),
			section(secCode, vec(body)),
			section(secData, vec(activeAt(7, "active"), cat(1, "passive"), activeAt(30, ""))),
		)
	}
	var m module

	// checkPrepared looks at the segments one by one; here it is only which of the two
	// forms is chosen.
	p := must(t, sections(code(raw(0xfc, 0x09, 2))))
	m = module{prepared: true}
	if err := m.parse(p.Code); err != nil {
		t.Fatal(err)
	}
	if got, want := len(m.data), 3; got != want {
		t.Errorf("%d data segments in code that names one, want %d", got, want)
	}

	p = must(t, sections(code()))
	m = module{prepared: true}
	if err := m.parse(p.Code); err != nil {
		t.Fatal(err)
	}
	if got, want := len(m.data), 0; got != want || m.hasDataCount {
		t.Errorf("%d data segments in code that names none, want %d", got, want)
	}
}
