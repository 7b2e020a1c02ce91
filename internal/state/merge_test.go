package state

import (
	"encoding/binary"
	"math"
	"slices"
	"testing"

	"github.com/faasm-go/faasm/internal/state/global"
)

// number is an element of any type, as its bits.
type number struct {
	e    global.Element
	bits uint64
}

func i32(v int32) number   { return number{global.Int32, uint64(uint32(v))} }
func i64(v int64) number   { return number{global.Int64, uint64(v)} }
func f32(v float32) number { return number{global.Float32, uint64(math.Float32bits(v))} }
func f64(v float64) number { return number{global.Float64, math.Float64bits(v)} }

func vector(numbers ...number) (out []byte) {
	for _, n := range numbers {
		if n.e == global.Int32 || n.e == global.Float32 {
			out = binary.LittleEndian.AppendUint32(out, uint32(n.bits))
		} else {
			out = binary.LittleEndian.AppendUint64(out, n.bits)
		}
	}
	return out
}

// What a host changed is combined with what the global tier has, and nothing else is
// touched, to the bit.
func TestSession_Merge_exact(t *testing.T) {
	negZero, inf := math.Copysign(0, -1), math.Inf(1)
	nan := math.Float64frombits(0x7ff8_dead_beef_0001)
	for name, row := range map[string]struct {
		op                        global.Op
		was, here, globally, want []number
	}{
		"i32 sum": {global.Sum, []number{i32(1), i32(2), i32(3)}, []number{i32(1), i32(12), i32(-3)},
			[]number{i32(100), i32(200), i32(300)}, []number{i32(100), i32(210), i32(294)}},
		"i32 sum wraps": {global.Sum, []number{i32(math.MaxInt32), i32(0)}, []number{i32(math.MinInt32), i32(math.MinInt32)},
			[]number{i32(math.MaxInt32), i32(math.MinInt32)}, []number{i32(math.MinInt32), i32(0)}},
		"i64 sum": {global.Sum, []number{i64(1 << 53), i64(5)}, []number{i64(1<<53 + 1), i64(5)},
			[]number{i64(1 << 62), i64(math.MinInt64)}, []number{i64(1<<62 + 1), i64(math.MinInt64)}},
		"f32 sum": {global.Sum, []number{f32(1), f32(2)}, []number{f32(1.5), f32(2)}, []number{f32(10), f32(float32(negZero))},
			[]number{f32(10.5), f32(float32(negZero))}},
		"f64 sum of what did not change": {global.Sum, []number{f64(1), f64(1), f64(1), f64(1), f64(2)}, []number{f64(1), f64(1), f64(1), f64(1), f64(3)},
			[]number{f64(negZero), f64(0), f64(inf), f64(nan), f64(10)}, []number{f64(negZero), f64(0), f64(inf), f64(nan), f64(11)}},
		"f64 sum between changes": {global.Sum, []number{f64(1), f64(1), f64(1), f64(1)}, []number{f64(2), f64(1), f64(1), f64(3)},
			[]number{f64(0.25), f64(negZero), f64(0), f64(-1)}, []number{f64(1.25), f64(negZero), f64(0), f64(1)}},
		"f64 sum of infinities": {global.Sum, []number{f64(inf), f64(1)}, []number{f64(inf), f64(inf)},
			[]number{f64(1), f64(1)}, []number{f64(1), f64(inf)}},
		"f64 sum of less": {global.Sum, []number{f64(5)}, []number{f64(2)}, []number{f64(100)}, []number{f64(97)}},
		"i32 min": {global.Min, []number{i32(5), i32(5), i32(5)}, []number{i32(5), i32(-7), i32(50)},
			[]number{i32(9), i32(9), i32(9)}, []number{i32(9), i32(-7), i32(9)}},
		"i32 max": {global.Max, []number{i32(5), i32(5), i32(5)}, []number{i32(5), i32(-7), i32(50)},
			[]number{i32(math.MinInt32), i32(math.MinInt32), i32(math.MinInt32)}, []number{i32(math.MinInt32), i32(-7), i32(50)}},
		"i64 min": {global.Min, []number{i64(5), i64(5)}, []number{i64(5), i64(1)}, []number{i64(math.MaxInt64), i64(math.MaxInt64)},
			[]number{i64(math.MaxInt64), i64(1)}},
		"i64 max": {global.Max, []number{i64(5), i64(5)}, []number{i64(5), i64(6)}, []number{i64(math.MinInt64), i64(math.MinInt64)},
			[]number{i64(math.MinInt64), i64(6)}},
		"f32 max": {global.Max, []number{f32(1), f32(1)}, []number{f32(1), f32(2)}, []number{f32(float32(-inf)), f32(3)},
			[]number{f32(float32(-inf)), f32(3)}},
		"f64 min": {global.Min, []number{f64(1), f64(1), f64(1), f64(0)}, []number{f64(1), f64(1), f64(-3), f64(negZero)},
			[]number{f64(inf), f64(negZero), f64(7), f64(0)}, []number{f64(inf), f64(negZero), f64(-3), f64(negZero)}},
	} {
		for _, how := range []string{"view", "call"} {
			a, b := onTwoHosts(t)
			e := row.was[0].e
			put(t, a, "k", vector(row.was...))
			must(t, b.Pull("k"))
			here := vector(row.here...)
			if how == "view" {
				copy(view(t, b, "k", Access{}, 0, -1), here)
			} else {
				must(t, b.SetAt("k", 0, here))
			}
			must(t, b.FlagDirty("k", 0, 0))
			put(t, a, "k", vector(row.globally...))
			must(t, b.Merge("k", e, row.op))
			name := name + " by " + how
			wantBytes(t, name, globally(t, a, "k"), vector(row.want...))
			wantBytes(t, name+": here", value(t, b, "k"), here)
			if dirty, err := b.Dirty("k"); dirty || err != nil {
				t.Errorf("%s: dirty after the merge: %t, %v", name, dirty, err)
			}
			must(t, b.Merge("k", e, row.op))
			wantBytes(t, name+" again", globally(t, a, "k"), vector(row.want...))
		}
	}
}

// Accumulation: what a host adds it adds once, wherever it has the value from.
func TestSession_Merge_accumulates(t *testing.T) {
	const n = 3*chunkBytes/8 + 5
	a, b := onTwoHosts(t)
	create := Access{Create: true, CreateSize: 8 * n}
	add := func(s *Session, m []byte, at int, x int64) {
		le.PutUint64(m[8*at:], le.Uint64(m[8*at:])+uint64(x))
	}
	ma, mb := view(t, a, "k", create, 0, -1), view(t, b, "k", create, 0, -1)
	var want int64
	places := []int{0, 1, chunkBytes/8 - 1, chunkBytes / 8, 2*chunkBytes/8 + 7, n - 1}
	for i := range int64(20) {
		for _, at := range places {
			add(a, ma, at, i)
			add(b, mb, at, 1000*i)
		}
		want += 1001 * i
		must(t, a.Merge("k", global.Int64, global.Sum))
		must(t, b.Merge("k", global.Int64, global.Sum))
		switch i % 4 {
		case 1:
			must(t, a.Pull("k"))
		case 2:
			must(t, b.PullRange("k", 8, chunkBytes))
		}
		got := globally(t, a, "k")
		for at := range n {
			sum := int64(0)
			if slices.Contains(places, at) {
				sum = want
			}
			if have := int64(le.Uint64(got[8*at:])); have != sum {
				t.Fatalf("round %d, element %d: %d, want %d", i, at, have, sum)
			}
		}
	}
}

// What was set as a whole is added as a whole, whatever was here before.
func TestSession_Merge_set(t *testing.T) {
	a, b := onTwoHosts(t)
	must(t, a.Set("k", vector(i32(1), i32(2))))
	must(t, a.Merge("k", global.Int32, global.Sum)) // nothing there: it is pushed
	wantBytes(t, "pushed", globally(t, a, "k"), vector(i32(1), i32(2)))
	must(t, b.Set("k", vector(i32(10), i32(0))))
	must(t, b.Merge("k", global.Int32, global.Sum))
	wantBytes(t, "added", globally(t, a, "k"), vector(i32(11), i32(2)))
	if dirty, _ := b.Dirty("k"); dirty {
		t.Error("dirty after the merge")
	}
	must(t, b.PushDirty("k")) // has nothing to replace
	wantBytes(t, "not replaced", globally(t, a, "k"), vector(i32(11), i32(2)))
	must(t, a.Set("k", vector(i32(100), i32(100)))) // a has a base, which does not count
	must(t, a.Merge("k", global.Int32, global.Sum))
	wantBytes(t, "added again", globally(t, a, "k"), vector(i32(111), i32(102)))
	must(t, a.Merge("k", global.Int32, global.Sum))
	wantBytes(t, "once", globally(t, a, "k"), vector(i32(111), i32(102)))
	must(t, b.Set("k", vector(i32(200), i32(0))))
	must(t, b.Merge("k", global.Int32, global.Max))
	wantBytes(t, "max of all", globally(t, a, "k"), vector(i32(200), i32(102)))
	must(t, b.Set("k", vector(i32(300), i32(0))))
	must(t, b.PushRange("k", 0, 4)) // counts as pushed
	must(t, b.Merge("k", global.Int32, global.Sum))
	wantBytes(t, "the rest", globally(t, a, "k"), vector(i32(300), i32(102)))
	must(t, b.Set("k", vector(i32(1), i32(1))))
	must(t, a.Delete("k"))
	must(t, b.Merge("k", global.Int32, global.Min))
	wantBytes(t, "made anew", globally(t, a, "k"), vector(i32(1), i32(1)))
}

func TestSession_Merge_refused(t *testing.T) {
	a, b := onTwoHosts(t)
	must(t, a.Set("k", make([]byte, 12)))
	must(t, a.Push("k"))
	must(t, a.SetAt("k", 8, []byte{1}))
	for what, row := range map[string]struct {
		e  global.Element
		op global.Op
	}{
		"half elements": {global.Int64, global.Sum}, "half floats": {global.Float64, global.Max},
		"no type": {0, global.Sum}, "unknown type": {global.Float64 + 1, global.Sum}, "type 255": {255, global.Sum},
		"no operation": {global.Int32, 0}, "unknown operation": {global.Int32, global.Max + 1}, "operation 255": {global.Int32, 255},
	} {
		wantErr(t, what, a.Merge("k", row.e, row.op), global.ErrInvalid)
	}
	must(t, b.Set("k", make([]byte, 4)))
	must(t, b.Push("k"))
	wantErr(t, "beyond the global value", a.Merge("k", global.Int32, global.Sum), global.ErrInvalid)
	wantBytes(t, "nothing changed", globally(t, a, "k"), make([]byte, 4))
	if dirty, _ := a.Dirty("k"); !dirty {
		t.Error("what was refused is not dirty any more")
	}
}
