package statemodel

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// Op is what a client asks of its host. Do is one of
//
//	set              the whole local value, to Tag in each slot
//	set at, poke     Slot, to Tag
//	read at, peek    Slot: Answer.Tags[0]
//	view             the value is mapped; view at: the chunk of Slot is
//	push, push dirty, pull
//	push range, pull range   Slots slots from Slot on
//	delete, publish
//	latest           the published value: Answer.Tags
//	see              the global value, without a replica: Answer.Tags, or Sum
//	append, clear, list      of the list under the name: Tag, Answer.List
//	lock, unlock, lock global, unlock global
//
// and, of a Sum, make (of zero, without a client beside), view, add (Delta; Answer.Sum is what
// it has become), merge, pull and see.
type Op struct {
	Client int
	Do     string
	Name   string
	Kind   Kind
	Slot   int
	Slots  int
	Tag    byte
	Delta  int64
	Write  bool // of a lock
}

// Range is where in the value the slots of a range are.
func (op Op) Range() (off, n int64) {
	off = op.Kind.Offset(op.Slot)
	return off, op.Kind.Offset(op.Slot+op.Slots-1) + 1 - off
}

// Answer is what came of it.
type Answer struct {
	Tags    [Slots]byte
	List    string // the elements, each followed by a space
	Sum     int64
	None    bool   // there is no value
	NoLock  bool   // it was not to be had
	Fenced  bool   // the change was refused: another has had the lock since
	Unknown string // an error after which it may have taken effect, or not
}

// History is what clients did and saw. It is safe for concurrent use. Moments are
// nanoseconds since the same one.
type History struct {
	mu      sync.Mutex
	events  []event
	crashes []crash
	open    []int // events that may take effect until Settle
}

type event struct {
	Op
	Answer
	call, back int64
	until      int64 // it takes effect before, if it does
}

type crash struct {
	host     int
	from, to int64
}

// Add records an operation that was called and returned at those moments. After one whose
// result is not known the client does nothing before Settle: it may take effect still.
func (h *History) Add(op Op, a Answer, call, back int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if op.Client < 0 || op.Client >= Clients {
		panic(fmt.Sprintf("BUG: there is no client %d", op.Client))
	}
	e := event{op, a, call, back, back}
	if a.Unknown != "" {
		e.until = math.MaxInt64
		h.open = append(h.open, len(h.events))
	}
	h.events = append(h.events, e)
}

// Crash records that a host died between two moments: all that was here is gone.
func (h *History) Crash(host int, from, to int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.crashes = append(h.crashes, crash{host, from, to})
}

// Settle says that what is not known by now will not take effect any more.
func (h *History) Settle(now int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, i := range h.open {
		h.events[i].until = now
	}
	h.open = nil
}

// Unknown returns why the results of operations are not known.
func (h *History) Unknown() (why []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if e.Unknown != "" {
			why = append(why, fmt.Sprintf("%s %s: %s", e.Do, e.Name, e.Unknown))
		}
	}
	return why
}

// Verdict is what came of a check.
type Verdict struct {
	Phases    int      // of all operations
	Undecided []string // objects whose check took too long
	Illegal   string   // the history of an object that the model does not allow, or ""
}

// Check checks the history of each object, each for so long at most.
func (h *History) Check(each time.Duration) (v Verdict) {
	h.mu.Lock()
	defer h.mu.Unlock()
	objects := h.objects()
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		o := objects[name]
		v.Phases += len(o.ops)
		switch result, _ := porcupine.CheckOperationsVerbose(model(o.begin), o.ops, each); result {
		case porcupine.Illegal:
			v.Illegal = name + "\n" + describe(o.ops)
			return v
		case porcupine.Unknown:
			v.Undecided = append(v.Undecided, name)
		}
	}
	return v
}

// object is something that shares nothing with others, so that it has a history of its own.
type object struct {
	begin state
	hosts []int // that may die on it; nil: all
	ops   []porcupine.Operation
}

// late are the phases that may take effect after an operation whose result is not known.
var late = []phase{phaseApply, phaseDelete, phasePublish, phaseAppend, phaseClear}

func (h *History) objects() map[string]*object {
	objects := make(map[string]*object)
	add := func(name string, begin state, hosts []int, e event, phases ...input) {
		o := objects[name]
		if o == nil {
			o = &object{begin: begin, hosts: hosts}
			objects[name] = o
		}
		for _, in := range phases {
			op := porcupine.Operation{
				ClientId: e.Client, Input: in, Call: e.call, Return: e.back,
				Output: output{e.Tags, e.List, e.Sum},
			}
			if in.maybe && slices.Contains(late, in.phase) {
				op.Return = e.until
			}
			if in.maybe && in.phase == phaseUnlock {
				op.Return = math.MaxInt64 // when the lease runs out
			}
			o.ops = append(o.ops, op)
		}
	}
	for i, e := range h.events {
		in := input{
			kind: e.Kind, client: e.Client, op: int32(i + 1), slot: e.Slot, slots: e.Slots, tag: e.Tag, only: -1, write: e.Write,
			delta: e.Delta, maybe: e.Unknown != "", known: e.Unknown == "",
		}
		switch e.Do {
		case "append", "clear", "list":
			in.phase = phase(e.Do)
			if e.Do != "list" || !in.maybe {
				add("list "+e.Name, list(""), []int{}, e, in)
			}
		case "lock", "unlock", "lock global", "unlock global":
			name, on := fmt.Sprintf("lock %s on host %d", e.Name, in.host()), []int{in.host()}
			if strings.HasSuffix(e.Do, " global") {
				name, on = "lock "+e.Name, nil
			}
			in.phase = phaseLock
			if strings.HasPrefix(e.Do, "unlock") {
				in.phase = phaseUnlock
			}
			if !e.NoLock {
				add(name, lock{}, on, e, in)
			}
		default:
			switch e.Kind {
			case Sum:
				add("number "+e.Name, sums{}, nil, e, sumPhases(in, e)...)
			case Pointers:
				for only := range Slots {
					in.only = only
					add(fmt.Sprintf("slot %d of %s", only, e.Name), twoTiers{}, nil, e, valuePhases(in, e, h.full(e))...)
				}
			default:
				add("value "+e.Name, twoTiers{}, nil, e, valuePhases(in, e, h.full(e))...)
			}
		}
	}
	for _, c := range h.crashes {
		for _, o := range objects {
			if o.hosts == nil || slices.Contains(o.hosts, c.host) {
				in := input{phase: phaseCrash, client: c.host, only: -1}
				o.ops = append(o.ops, porcupine.Operation{ClientId: c.host, Input: in, Output: output{}, Call: c.from, Return: c.to})
			}
		}
	}
	return objects
}

// full tells whether no chunk of the replica was absent when e was called.
func (h *History) full(e event) bool {
	if e.Kind == Versions {
		return false // it may have been deleted meanwhile
	}
	since := int64(math.MinInt64) // the last crash
	for _, c := range h.crashes {
		if c.host == e.Client%Hosts && c.from <= e.call {
			since = max(since, c.from)
		}
	}
	for _, was := range h.events {
		if was.Name == e.Name && was.Client%Hosts == e.Client%Hosts && was.call >= since && was.back <= e.call &&
			was.Unknown == "" && !was.None && slices.Contains([]string{"set", "view", "pull"}, was.Do) {
			return true
		}
	}
	return false
}

// valuePhases are the phases of an operation on a value.
func valuePhases(in input, e event, full bool) (out []input) {
	all := make([]int, in.kind.chunks())
	for i := range all {
		all[i] = i
	}
	own := in.kind.chunk(e.Slot)
	add := func(p phase, chunk int) {
		in.phase, in.chunk = p, chunk
		if chunk < 0 || in.only < 0 || in.kind.chunk(in.only) == chunk {
			out = append(out, in)
		}
	}
	fill := func(chunks ...int) {
		for _, c := range chunks {
			if !full {
				add(phaseFill, c)
			}
		}
	}
	// fillForPush brings nothing if there was nothing here.
	fillForPush := func() {
		was := in.maybe
		in.maybe = true
		fill(all...)
		in.maybe = was
	}
	mine := in.only < 0 || in.only == e.Slot
	if e.None {
		return nonePhases(in, e, own)
	}
	switch e.Do {
	case "set":
		add(phaseSet, -1)
	case "set at", "poke":
		fill(own)
		if mine {
			add(phaseSetAt, own)
		}
	case "read at", "peek":
		fill(own)
		if mine && !in.maybe {
			add(phaseReadAt, own)
		}
	case "view":
		fill(all...)
	case "view at":
		fill(own)
	case "push", "publish":
		fillForPush()
		in.ifDirty = e.Do == "publish"
		if !e.Fenced {
			add(phaseSnap, -1)
			add(phaseApply, -1)
		}
		if !e.Fenced && e.Do == "publish" {
			add(phasePublish, -1)
		}
	case "push dirty", "push range":
		in.dirty, in.part = true, e.Do == "push range"
		if e.Fenced {
			break
		}
		for _, c := range all {
			add(phaseSnap, c)
			add(phaseApply, c)
		}
	case "pull", "pull range":
		in.part = e.Do == "pull range"
		add(phaseFetch, -1)
		add(phaseInstall, -1)
	case "delete":
		add(phaseDelete, -1)
		add(phaseForget, -1)
	case "latest", "see":
		if !in.maybe {
			add(phase(e.Do), -1)
		}
	default:
		panic("BUG: a value knows no " + e.Do)
	}
	return out
}

// nonePhases are those of an operation that found no value, one tier after the other.
func nonePhases(in input, e event, own int) (out []input) {
	add := func(p phase, chunk int) {
		in.phase, in.chunk = p, chunk
		out = append(out, in)
	}
	switch e.Do {
	case "set at", "read at", "view at":
		add(phaseAbsent, own)
		add(phaseNowhere, -1)
	case "view", "push", "delete":
		add(phaseAbsent, -1)
		add(phaseNowhere, -1)
	case "latest":
		add(phaseNever, -1)
	case "publish":
		add(phaseNowhere, -1)
		in.maybe, in.known, in.ifDirty = true, false, true
		add(phaseSnap, -1)
		add(phaseApply, -1)
	default:
		add(phaseNowhere, -1)
	}
	return out
}

// sumPhases are the phases of an operation on a number, which has its host's replica alone.
func sumPhases(in input, e event) (out []input) {
	add := func(p phase) {
		in.phase = p
		out = append(out, in)
	}
	if e.None {
		add(phaseNowhere)
		return out
	}
	switch e.Do {
	case "make":
		add(phaseSet)
	case "view":
		add(phaseFill)
	case "add":
		add(phaseAdd)
	case "merge":
		if in.maybe {
			add(phaseSnap)
			add(phaseApply)
			break
		}
		add(phaseCount)
	case "pull":
		add(phaseInstall)
	case "see":
		if !in.maybe {
			add(phaseSee)
		}
	default:
		panic("BUG: a number knows no " + e.Do)
	}
	return out
}
