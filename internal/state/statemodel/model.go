// Package statemodel is the model of state that docs/STATE.md describes, on two hosts, in a
// form that histories of what clients did and saw can be checked against.
//
// It is not an implementation: it has a few bytes of a value where the hosts have all, and
// knows nothing of memory, drivers or errors. Nothing but tests imports it.
package statemodel

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

const (
	Hosts = 2
	// Clients bounds the ids of clients. A client is on the host that its id modulo Hosts
	// names.
	Clients = 20
	// Slots are the bytes of a value that are looked at. Every write puts a byte into them
	// that no other put there, so a byte is as good as a long text, and what differs from
	// the last push is what was written since.
	Slots = 4
	// Size is how large a value is, if it is of no kind that says otherwise.
	Size = chunkBytes + 5000

	chunkBytes = 64 << 10
	chunksMax  = 2
	noBase     = -1 // of a slot: it was not pushed nor pulled since it was set with the whole
)

// Kind is what is done with a value.
type Kind int

const (
	// Calls: it is read and written only by calls that copy, so a snapshot is of one moment.
	Calls Kind = iota
	// Pointers: it is written through pointers as well. What is written meanwhile makes a
	// snapshot of the whole none of one moment, but it is one of each byte.
	Pointers
	// Versions: a value of one chunk, of Size bytes less one chunk, that is deleted and
	// published as well. It is read and written only by calls that copy.
	Versions
	// Sum: 8 bytes, a number that is added to, under the local lock, and merged.
	Sum
)

// chunks is how many chunks a value has.
func (k Kind) chunks() int {
	if k == Versions {
		return 1
	}
	return chunksMax
}

func (k Kind) chunk(slot int) int { return slot * k.chunks() / Slots }

// Size is how large a value of the kind is, in bytes.
func (k Kind) Size() int {
	switch k {
	case Sum:
		return 8
	case Versions:
		return Size - chunkBytes
	}
	return Size
}

// Offset is where in the value a slot is.
func (k Kind) Offset(slot int) int64 {
	return int64(k.chunk(slot))*chunkBytes + 100 + int64(slot)*1000
}

// An operation is one phase in a history, or several that each take effect at one point
// between its call and its return.
type phase string

const (
	phaseSet     phase = "set"     // the whole local value
	phaseSetAt   phase = "set at"  // one slot of it
	phaseReadAt  phase = "read at" // one slot of it
	phaseFill    phase = "fill"    // an absent chunk comes from the global tier, if need be
	phaseSnap    phase = "snap"    // what is to be pushed is taken
	phaseApply   phase = "apply"   // it is in the global tier, or the part on one chunk is
	phaseFetch   phase = "fetch"   // the global value is read
	phaseInstall phase = "install" // it is the local one, or part of it is
	phaseSee     phase = "see"     // the global value is read by somebody who is on no host
	phaseDelete  phase = "delete"  // the global value is gone
	phaseForget  phase = "forget"  // so is the local one
	phasePublish phase = "publish" // the global value is the published one
	phaseLatest  phase = "latest"  // the published value is read
	phaseAbsent  phase = "absent"  // a chunk is not here, or some chunk is not
	phaseNowhere phase = "nowhere" // the global tier has no value
	phaseNever   phase = "never"   // nor a published one
	phaseAdd     phase = "add"     // to the local number
	phaseCount   phase = "count"   // what was added is in the global number, and counts no more
	phaseCrash   phase = "crash"   // the host has died
	phaseAppend  phase = "append"
	phaseClear   phase = "clear"
	phaseList    phase = "list"
	phaseLock    phase = "lock"
	phaseUnlock  phase = "unlock"
)

type input struct {
	kind        Kind
	phase       phase
	client      int
	op          int32 // of which this is a phase
	slot, slots int   // the range that it is about
	chunk       int   // or -1: all
	tag         byte
	only        int  // the slot that this history is of, or -1: of all
	part        bool // snap, install: of the range only
	dirty       bool // snap: only what differs from the base
	ifDirty     bool // snap: all, if something differs from the base
	known       bool // the result is, so this host moves nothing else meanwhile
	maybe       bool // it may have taken effect, or not
	write       bool // of a lock
	delta       int64
}

func (in input) host() int { return in.client % Hosts }

func (in input) covers(slot int) bool {
	return !in.part || slot >= in.slot && slot < in.slot+in.slots
}

type output struct {
	tags [Slots]byte // of the slots from input.slot on
	list string
	sum  int64
}

// twoTiers are a value on two hosts. It is comparable, as all states are.
type twoTiers struct {
	exists    bool // in the global tier
	value     [Slots]byte
	published bool
	latest    [Slots]byte
	hosts     [Hosts]replica
	moves     [Clients]move
}

type replica struct {
	here    bool
	present [chunksMax]bool
	bytes   [Slots]byte
	base    [Slots]int16
	moving  int8 // client+1 who pushes or pulls: one at a time
}

// move is a push or pull that has begun.
type move struct {
	op      int32
	fetched bool
	whole   bool // it is all sent at once
	pushed  bool // all of it
	taken   [chunksMax]bool
	left    [chunksMax]bool // to apply
	send    [Slots]bool
	bytes   [Slots]byte
}

func (r *replica) full(k Kind) bool {
	for chunk := range k.chunks() {
		if !r.present[chunk] {
			return false
		}
	}
	return true
}

func (r *replica) dirty(k Kind) bool {
	for i := range Slots {
		if r.present[k.chunk(i)] && r.base[i] != int16(r.bytes[i]) {
			return true
		}
	}
	return false
}

// put makes a slot what the global tier has.
func (r *replica) put(slot int, tag byte) { r.bytes[slot], r.base[slot] = tag, int16(tag) }

// step returns what may be after a phase: nothing if the model does not allow it.
func (s twoTiers) step(in input, out output) []any {
	was := s
	l, m := &s.hosts[in.host()], &s.moves[in.client]
	ok := true
	switch in.phase {
	case phaseSet:
		for i := range Slots {
			l.bytes[i], l.base[i] = in.tag, noBase
		}
		l.here, l.present = true, [chunksMax]bool{true, true}
	case phaseSetAt:
		ok = l.present[in.chunk]
		l.bytes[in.slot] = in.tag
	case phaseReadAt:
		ok = l.present[in.chunk] && l.bytes[in.slot] == out.tags[0]
	case phaseFill:
		if s.exists && !l.present[in.chunk] {
			for i := range Slots {
				if in.kind.chunk(i) == in.chunk {
					l.put(i, s.value[i])
				}
			}
			l.here, l.present[in.chunk] = true, true
		}
	case phaseSnap:
		ok = l.moving == 0 || l.moving == int8(in.client+1) || !in.known
		ok = s.snap(in) && ok
	case phaseApply:
		ok = s.apply(in)
	case phaseFetch:
		ok = s.exists && (l.moving == 0 || !in.known)
		*m = move{op: in.op, bytes: s.value, fetched: true}
		if in.known {
			l.moving = int8(in.client + 1)
		}
	case phaseInstall:
		ok = m.fetched && m.op == in.op
		had := l.present
		for i := range Slots {
			// Of a range, absent chunks come as a whole.
			chunk := in.kind.chunk(i)
			touched := in.kind.chunk(in.slot) <= chunk && chunk <= in.kind.chunk(in.slot+max(in.slots, 1)-1)
			if in.covers(i) || touched && !had[chunk] {
				l.put(i, m.bytes[i])
				l.here, l.present[chunk] = true, true
			}
		}
		if l.moving == int8(in.client+1) {
			l.moving = 0
		}
		*m = move{}
	case phaseSee:
		ok = s.exists && same(in, s.value, out.tags)
	case phaseDelete:
		s.exists, s.value, s.published, s.latest = false, [Slots]byte{}, false, [Slots]byte{}
	case phaseForget, phaseCrash:
		*l = replica{}
	case phasePublish:
		ok = s.exists && m.pushed && m.op == in.op
		s.published, s.latest = true, s.value
		*m = move{}
	case phaseLatest:
		ok = s.published && same(in, s.latest, out.tags)
	case phaseAbsent:
		if in.chunk < 0 {
			ok = !l.full(in.kind)
		} else {
			ok = !l.present[in.chunk]
		}
	case phaseNowhere:
		ok = !s.exists
	case phaseNever:
		ok = !s.published
	default:
		panic("BUG: a value has no phase " + in.phase)
	}
	return outcomes(s, was, ok, in.maybe)
}

// same compares what was seen.
func same(in input, is, seen [Slots]byte) bool {
	if in.only >= 0 {
		return is[in.only] == seen[in.only]
	}
	return is == seen
}

// snap takes what is to be pushed, all of it before any is sent. A partial push takes it
// chunk by chunk.
func (s *twoTiers) snap(in input) bool {
	l, m := &s.hosts[in.host()], &s.moves[in.client]
	if m.op != in.op {
		*m = move{op: in.op}
	}
	all := !in.dirty && (!in.ifDirty || l.dirty(in.kind))
	m.whole = in.chunk < 0
	ok := true
	for i := range Slots {
		chunk := in.kind.chunk(i)
		if in.only >= 0 && in.kind.chunk(in.only) != chunk {
			m.taken[chunk] = true // another history's
			continue
		}
		if !m.whole && in.chunk != chunk {
			continue
		}
		here := l.present[chunk]
		ok = ok && (here || !all || !l.here) // who has nothing pushes nothing
		m.bytes[i] = l.bytes[i]
		m.send[i] = here && (all || in.dirty && in.covers(i) && int16(l.bytes[i]) != l.base[i])
		m.left[chunk], m.taken[chunk] = true, true
	}
	if in.known {
		l.moving = int8(in.client + 1)
	}
	return ok
}

// apply sends what was taken: at once if it is the whole, else chunk by chunk. If there is
// no value, that makes it.
func (s *twoTiers) apply(in input) bool {
	l, m := &s.hosts[in.host()], &s.moves[in.client]
	if m.op != in.op {
		return false
	}
	if m.pushed {
		return true
	}
	for chunk := range in.kind.chunks() {
		if !m.taken[chunk] {
			return false
		}
	}
	if m.send != [Slots]bool{} {
		for i := range Slots {
			if m.whole || !s.exists {
				m.send[i], s.value[i] = true, m.bytes[i]
			} else if in.kind.chunk(i) == in.chunk && m.send[i] {
				s.value[i] = m.bytes[i]
			}
		}
		s.exists = true
	}
	if in.chunk >= 0 {
		m.left[in.chunk] = false
	}
	if !m.whole && m.left != [chunksMax]bool{} {
		return true
	}
	if l.moving == int8(in.client+1) {
		for i := range Slots {
			if m.send[i] {
				l.base[i] = int16(m.bytes[i])
			}
		}
		l.moving = 0
	}
	if m.whole {
		*m = move{op: in.op, whole: true, pushed: true} // for the phases that come after
	} else {
		*m = move{}
	}
	return true
}

// sums are a number on two hosts, each of which does one thing after another with it.
type sums struct {
	exists bool
	total  int64
	hosts  [Hosts]struct {
		here        bool
		value, base int64
	}
	moves [Clients]struct {
		taken bool
		delta int64
	}
}

func (s sums) step(in input, out output) []any {
	was := s
	l, m := &s.hosts[in.host()], &s.moves[in.client]
	ok := true
	switch in.phase {
	case phaseSet:
		l.here, l.value, l.base = true, in.delta, 0
	case phaseFill:
		if s.exists && !l.here {
			l.here, l.value, l.base = true, s.total, s.total
		}
	case phaseAdd:
		l.value += in.delta
		ok = l.here && (l.value == out.sum || in.maybe)
	case phaseCount:
		if l.here {
			s.exists, s.total, l.base = true, s.total+l.value-l.base, l.value
		}
	case phaseSnap: // of a merge of which the result is not known
		if l.here {
			m.taken, m.delta = true, l.value-l.base
		}
	case phaseApply:
		ok = m.taken
		s.exists, s.total, m.taken, m.delta = true, s.total+m.delta, false, 0
	case phaseInstall:
		ok = s.exists
		l.here, l.value, l.base = true, s.total, s.total
	case phaseSee:
		ok = s.exists && s.total == out.sum
	case phaseNowhere:
		ok = !s.exists
	case phaseCrash:
		l.here, l.value, l.base = false, 0, 0
	default:
		panic("BUG: a number has no phase " + in.phase)
	}
	return outcomes(s, was, ok, in.maybe)
}

// list is an append list: its elements, each followed by a space.
type list string

func (s list) step(in input, out output) []any {
	next, ok := s, true
	switch in.phase {
	case phaseAppend:
		next += list(fmt.Sprint(in.tag, " "))
	case phaseClear:
		next = ""
	case phaseList:
		ok = string(s) == out.list
	}
	return outcomes(next, s, ok, in.maybe)
}

// lock is how often a lock is held, host by host.
type lock [Hosts]struct{ readers, writers int8 }

func (s lock) step(in input, _ output) []any {
	was, ok := s, true
	h := &s[in.host()]
	switch in.phase {
	case phaseLock:
		for _, other := range s {
			ok = ok && other.writers == 0 && (other.readers == 0 || !in.write)
		}
		if in.write {
			h.writers++
		} else {
			h.readers++
		}
	case phaseUnlock:
		if in.write {
			h.writers--
		} else {
			h.readers--
		}
		ok = h.writers >= 0 && h.readers >= 0
	case phaseCrash:
		h.readers, h.writers = 0, 0
	}
	return outcomes(s, was, ok, in.maybe)
}

// outcomes are the states that a phase may lead to.
func outcomes(next, was any, ok, maybe bool) []any {
	switch {
	case !ok && !maybe:
		return nil
	case !ok:
		return []any{was}
	case maybe && next != was:
		return []any{next, was}
	}
	return []any{next}
}

// state is what the model says of an object at one moment.
type state interface {
	step(input, output) []any
}

// model is that of an object that begins as it says.
func model(begin state) porcupine.Model {
	return (&porcupine.NondeterministicModel{
		Init: func() []any { return []any{begin} },
		Step: func(s, in, out any) []any { return s.(state).step(in.(input), out.(output)) },
	}).ToModel()
}

func (in input) String() string {
	s := fmt.Sprintf("host %d, client %2d, op %3d: %s", in.host(), in.client, in.op, in.phase)
	for _, detail := range []struct {
		says bool
		text string
	}{
		{in.chunk >= 0, fmt.Sprint(" chunk ", in.chunk)},
		{true, fmt.Sprint(" slot ", in.slot)},
		{in.part, fmt.Sprint(" and ", in.slots-1, " more")},
		{in.tag != 0, fmt.Sprint(" tag ", in.tag)},
		{in.delta != 0, fmt.Sprint(" by ", in.delta)},
		{in.dirty || in.ifDirty, " of what is dirty"},
		{in.write, " to write"},
		{in.maybe, ", maybe"},
	} {
		if detail.says {
			s += detail.text
		}
	}
	return s
}

func describe(ops []porcupine.Operation) string {
	ops = slices.Clone(ops)
	slices.SortStableFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var b strings.Builder
	for _, op := range ops {
		begin, end := time.Duration(op.Call-ops[0].Call), "ever"
		if op.Return < math.MaxInt64 {
			end = time.Duration(op.Return - ops[0].Call).String()
		}
		fmt.Fprintf(&b, "%13v to %13v: %v", begin, end, op.Input)
		if out := op.Output.(output); out != (output{}) {
			fmt.Fprintf(&b, ": %+v", out)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
