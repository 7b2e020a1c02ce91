package statemodel

import (
	"testing"
	"time"
)

// The model refuses what it should: without that, histories show nothing.
func TestHistory_Check(t *testing.T) {
	const maybe = "who knows"
	var h *History
	var now int64
	kind := Calls
	did := func(op Op, a Answer) {
		op.Name, op.Kind = "k", kind
		h.Add(op, a, now, now+1)
		now += 2
	}
	tags := func(all ...byte) (a Answer) {
		copy(a.Tags[:], all)
		return a
	}
	set := func(client int, tag byte) { did(Op{Client: client, Do: "set", Tag: tag}, Answer{}) }
	setAt := func(client, slot int, tag byte) {
		did(Op{Client: client, Do: "set at", Slot: slot, Tag: tag}, Answer{})
	}
	readAt := func(client, slot int, tag byte) {
		did(Op{Client: client, Do: "read at", Slot: slot}, tags(tag))
	}
	none := func(client int, do string) { did(Op{Client: client, Do: do}, Answer{None: true}) }
	do := func(client int, what ...string) {
		for _, w := range what {
			did(Op{Client: client, Do: w}, Answer{})
		}
	}
	ranged := func(client int, do string, slot, slots int) {
		did(Op{Client: client, Do: do, Slot: slot, Slots: slots}, Answer{})
	}
	crash := func(host int) {
		h.Crash(host, now, now+1)
		now += 2
	}
	add := func(client int, delta, sum int64) {
		did(Op{Client: client, Do: "add", Delta: delta}, Answer{Sum: sum})
	}
	see := func(sum int64) { did(Op{Do: "see"}, Answer{Sum: sum}) }
	lock := func(client int, do string, write bool) { did(Op{Client: client, Do: do, Write: write}, Answer{}) }
	list := func(elements string) { did(Op{Do: "list"}, Answer{List: elements}) }
	element := func(tag byte) { did(Op{Do: "append", Tag: tag}, Answer{}) }
	// shared is a value that both hosts have.
	shared := func() {
		set(0, 1)
		do(0, "push")
		do(1, "pull")
	}

	for _, tt := range []struct {
		name    string
		kind    Kind
		history func()
		allowed bool
	}{
		{"a value out of nothing", Calls, func() { readAt(0, 0, 1) }, false},
		{"a lost set", Calls, func() { set(0, 1); none(2, "read at") }, false},
		{"a lost set at", Calls, func() { set(0, 1); setAt(0, 1, 2); readAt(2, 1, 1) }, false},
		{"seen at once on the host", Calls, func() { set(0, 1); setAt(0, 1, 2); readAt(2, 1, 2); readAt(2, 0, 1) }, true},
		{"seen elsewhere without a push", Calls, func() { set(0, 1); readAt(1, 0, 1) }, false},
		{"seen by people without a push", Calls, func() { set(0, 1); did(Op{Do: "see"}, tags(1, 1, 1, 1)) }, false},
		{"a lost push", Calls, func() { set(0, 1); do(0, "push"); none(1, "pull") }, false},
		{"a push that people see not", Calls, func() { set(0, 1); do(0, "push"); none(1, "see") }, false},
		{"pushed and fetched", Calls, func() { set(0, 1); do(0, "push"); readAt(1, 3, 1) }, true},
		{"half a push", Calls, func() { set(0, 1); do(0, "push"); set(0, 2); do(0, "push"); did(Op{Do: "see"}, tags(2, 2, 1, 1)) }, false},
		{"seen elsewhere without a pull", Calls, func() { shared(); set(0, 2); do(0, "push"); readAt(1, 0, 2) }, false},
		{"a lost pull", Calls, func() { shared(); set(0, 2); do(0, "push"); do(1, "pull"); readAt(1, 0, 1) }, false},
		{"a pull that keeps writes", Calls, func() { shared(); setAt(0, 0, 2); do(0, "pull"); readAt(0, 0, 2) }, false},
		{"a stale chunk after a pull", Calls, func() { shared(); setAt(0, 3, 2); do(0, "push"); do(1, "pull"); readAt(1, 3, 1) }, false},
		{"a push of part over another's", Calls, func() {
			shared()
			setAt(0, 0, 2)
			setAt(1, 1, 3)
			do(0, "push dirty")
			do(1, "push dirty", "pull")
			readAt(1, 0, 1)
		}, false},
		{"pushes of parts that keep both", Calls, func() {
			shared()
			setAt(0, 0, 2)
			setAt(1, 1, 3)
			do(0, "push dirty")
			do(1, "push dirty")
			do(0, "pull")
			readAt(0, 0, 2)
			readAt(0, 1, 3)
		}, true},
		{"a push of all that keeps both", Calls, func() {
			shared()
			setAt(0, 0, 2)
			setAt(1, 1, 3)
			do(0, "push")
			do(1, "push")
			do(0, "pull")
			readAt(0, 0, 2)
		}, false},
		{"what was pushed is pushed again", Calls, func() {
			shared()
			setAt(1, 0, 2)
			do(1, "push dirty")
			do(0, "push dirty")
			do(1, "pull")
			readAt(1, 0, 1)
		}, false},
		{"what was set as a whole is pushed so", Calls, func() {
			shared()
			set(1, 2)
			setAt(0, 0, 3)
			do(0, "push dirty")
			do(1, "push dirty")
			did(Op{Do: "see"}, tags(2, 2, 2, 2))
		}, true},
		{"what was set as a whole is pushed in part", Calls, func() {
			shared()
			set(1, 2)
			do(1, "push dirty")
			did(Op{Do: "see"}, tags(2, 2, 1, 1))
		}, false},
		{"what was set and pushed is pushed again", Calls, func() {
			shared()
			set(0, 2)
			ranged(0, "push range", 0, 4)
			do(1, "pull")
			setAt(1, 1, 3)
			do(1, "push dirty")
			do(0, "push dirty")
			did(Op{Do: "see"}, tags(2, 2, 2, 2))
		}, false},
		{"what was set is pushed once", Calls, func() {
			shared()
			set(0, 2)
			ranged(0, "push range", 1, 2)
			do(1, "pull")
			setAt(1, 1, 3)
			do(1, "push dirty")
			do(0, "push dirty")
			did(Op{Do: "see"}, tags(2, 3, 2, 2))
		}, true},
		{"what was set and pulled is pushed", Calls, func() {
			shared()
			set(0, 2)
			ranged(0, "pull range", 1, 1)
			setAt(1, 1, 3)
			do(1, "push dirty")
			do(0, "push dirty")
			did(Op{Do: "see"}, tags(2, 1, 2, 2))
		}, false},
		{"what was set and not pulled is pushed", Calls, func() {
			shared()
			set(0, 2)
			ranged(0, "pull range", 1, 1)
			setAt(1, 1, 3)
			do(1, "push dirty")
			do(0, "push dirty")
			did(Op{Do: "see"}, tags(2, 3, 2, 2))
		}, true},
		{"a push of a range with what is beside it", Calls, func() {
			shared()
			setAt(0, 0, 2)
			setAt(0, 1, 3)
			ranged(0, "push range", 1, 1)
			did(Op{Do: "see"}, tags(2, 3, 1, 1))
		}, false},
		{"a push of a range with what is not changed", Calls, func() {
			shared()
			setAt(1, 1, 3)
			do(1, "push dirty")
			setAt(0, 0, 2)
			ranged(0, "push range", 0, 4)
			did(Op{Do: "see"}, tags(2, 1, 1, 1))
		}, false},
		{"a push of a range", Calls, func() {
			shared()
			setAt(1, 1, 3)
			do(1, "push dirty")
			setAt(0, 0, 2)
			ranged(0, "push range", 0, 4)
			did(Op{Do: "see"}, tags(2, 3, 1, 1))
		}, true},
		{"a pull of a range with what is beside it", Calls, func() {
			shared()
			set(0, 2)
			do(0, "push")
			setAt(1, 0, 3)
			ranged(1, "pull range", 1, 2)
			readAt(1, 0, 2)
		}, false},
		{"a pull of a range", Calls, func() {
			shared()
			set(0, 2)
			do(0, "push")
			setAt(1, 0, 3)
			ranged(1, "pull range", 1, 2)
			readAt(1, 0, 3)
			readAt(1, 1, 2)
			readAt(1, 2, 2)
			readAt(1, 3, 1)
		}, true},
		{"a pull of a range of nothing here", Calls, func() {
			set(0, 2)
			do(0, "push")
			ranged(1, "pull range", 0, 1)
			set(0, 3)
			do(0, "push")
			readAt(1, 1, 2) // came with it
			readAt(1, 2, 3)
		}, true},
		{"what was not pushed survives its host", Calls, func() { shared(); setAt(1, 0, 2); crash(1); readAt(1, 0, 2) }, false},
		{"a replica that survives its host", Calls, func() { shared(); set(0, 2); do(0, "push"); crash(1); readAt(1, 0, 1) }, false},
		{"a push that dies with its host", Calls, func() { shared(); setAt(1, 0, 2); do(1, "push"); crash(1); readAt(1, 0, 1) }, false},
		{"a push that may have been", Calls, func() {
			shared()
			setAt(1, 0, 2)
			did(Op{Client: 1, Do: "push"}, Answer{Unknown: maybe})
			crash(1)
			readAt(1, 0, 2)
		}, true},
		{"a push that may not have been", Calls, func() {
			shared()
			setAt(1, 0, 2)
			did(Op{Client: 1, Do: "push"}, Answer{Unknown: maybe})
			crash(1)
			readAt(1, 0, 1)
		}, true},
		{"a push that was refused", Calls, func() {
			shared()
			setAt(1, 0, 2)
			did(Op{Client: 1, Do: "push"}, Answer{Fenced: true})
			did(Op{Do: "see"}, tags(2, 1, 1, 1))
		}, false},

		{"a write through a pointer that is lost", Pointers, func() {
			set(0, 1)
			do(0, "view")
			did(Op{Do: "poke", Slot: 2, Tag: 2}, Answer{})
			do(0, "push dirty")
			readAt(1, 2, 1)
		}, false},
		{"a write through a pointer", Pointers, func() {
			set(0, 1)
			do(0, "view")
			did(Op{Do: "poke", Slot: 2, Tag: 2}, Answer{})
			do(0, "push dirty")
			readAt(1, 2, 2)
		}, true},

		{"a value that was deleted", Versions, func() { set(0, 1); do(0, "push", "delete"); readAt(0, 0, 1) }, false},
		{"a replica of what was deleted elsewhere", Versions, func() { shared(); do(0, "delete"); readAt(1, 0, 1) }, true},
		{"a pull of what was deleted", Versions, func() { shared(); do(0, "delete"); do(1, "pull") }, false},
		{"a delete that was none", Versions, func() { set(0, 1); do(0, "push", "delete"); none(0, "see"); none(0, "delete") }, true},
		{"a delete of what is there", Versions, func() { set(0, 1); do(0, "push"); none(1, "delete") }, false},
		{"a published version", Versions, func() {
			set(0, 1)
			do(0, "publish")
			set(0, 2)
			do(0, "push")
			did(Op{Client: 1, Do: "latest"}, tags(1, 1, 1, 1))
		}, true},
		{"a published version that changes", Versions, func() {
			set(0, 1)
			do(0, "publish")
			set(0, 2)
			do(0, "push")
			did(Op{Client: 1, Do: "latest"}, tags(2, 2, 2, 2))
		}, false},
		{"not the latest version", Versions, func() {
			set(0, 1)
			do(0, "publish")
			set(0, 2)
			do(0, "publish")
			did(Op{Client: 1, Do: "latest"}, tags(1, 1, 1, 1))
		}, false},
		{"what was not published", Versions, func() { set(0, 1); do(0, "push"); did(Op{Do: "latest"}, tags(1, 1, 1, 1)) }, false},
		{"a version that is not there", Versions, func() { set(0, 1); do(0, "publish"); none(1, "latest") }, false},
		{"a version that outlives its value", Versions, func() {
			set(0, 1)
			do(0, "publish", "delete")
			did(Op{Client: 1, Do: "latest"}, tags(1, 1, 1, 1))
		}, false},

		{"numbers that were merged", Sum, func() {
			do(0, "make", "merge")
			do(1, "view")
			add(0, 5, 5)
			add(1, 7, 7)
			do(0, "merge")
			do(1, "merge")
			see(12)
			do(1, "merge", "pull")
			add(1, 1, 13)
		}, true},
		{"a merge that is lost", Sum, func() {
			do(0, "make", "merge")
			do(1, "view")
			add(0, 5, 5)
			add(1, 7, 7)
			do(0, "merge")
			do(1, "merge")
			see(7)
		}, false},
		{"a merge that counts twice", Sum, func() { do(0, "make", "merge"); add(0, 5, 5); do(0, "merge", "merge"); see(10) }, false},
		{"a merge that counts again after its result was lost", Sum, func() {
			do(0, "make", "merge")
			add(0, 5, 5)
			did(Op{Do: "merge"}, Answer{Unknown: maybe})
			h.Settle(now)
			do(0, "merge")
			see(10)
		}, true},

		{"two writers", Calls, func() { lock(0, "lock", true); lock(2, "lock", true) }, false},
		{"two writers one after the other", Calls, func() { lock(0, "lock", true); lock(0, "unlock", true); lock(2, "lock", true) }, true},
		{"two writers on two hosts", Calls, func() { lock(0, "lock", true); lock(1, "lock", true) }, true},
		{"two writers everywhere", Calls, func() { lock(0, "lock global", true); lock(1, "lock global", true) }, false},
		{"a reader beside a writer", Calls, func() { lock(0, "lock global", false); lock(1, "lock global", true) }, false},
		{"two readers", Calls, func() { lock(0, "lock", false); lock(2, "lock", false) }, true},
		{"a writer after one that died", Calls, func() { lock(0, "lock global", true); crash(0); lock(1, "lock global", true) }, true},
		{"a writer beside one that lives", Calls, func() { lock(0, "lock global", true); crash(1); lock(1, "lock global", true) }, false},
		{"an unlock of nothing", Calls, func() { lock(0, "unlock", true) }, false},

		{"an element twice", Calls, func() { element(1); list("1 1 ") }, false},
		{"a lost element", Calls, func() { element(1); element(2); list("2 ") }, false},
		{"elements in disorder", Calls, func() { element(1); element(2); list("2 1 ") }, false},
		{"elements that were cleared", Calls, func() { element(1); do(0, "clear"); element(2); list("2 ") }, true},
		{"elements that outlive the hosts", Calls, func() { element(1); crash(0); crash(1); list("1 ") }, true},
	} {
		h, now, kind = &History{}, 0, tt.kind
		tt.history()
		v := h.Check(time.Minute)
		if got := v.Illegal == ""; got != tt.allowed || len(v.Undecided) > 0 {
			t.Errorf("%s: allowed is %t: %+v", tt.name, got, v)
		}
	}
}
