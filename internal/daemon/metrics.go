package daemon

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/state/global"
)

// newMetrics makes the registry that /metrics shows. What is counted on the path of a call
// is an atomic; all else is read when somebody asks.
func newMetrics(h *Host) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	gauge := func(name, help string, value func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "faasm", Name: name, Help: help}, value))
	}
	gauge("faaslets_live", "Faaslets alive, those that block included.", func() float64 { return float64(h.sched.Stats().Live) })
	gauge("faaslets_running", "Faaslets that hold a place among the running.", func() float64 { return float64(h.sched.Stats().Running) })
	gauge("faaslets_parked", "Faaslets that wait for a call they chained.", func() float64 { return float64(h.sched.Stats().Parked) })
	gauge("calls_waiting", "Calls that wait to start.", func() float64 { return float64(h.sched.Stats().Waiting) })
	gauge("regions", "Memory regions that exist, used or not.", func() float64 { return float64(h.runtime.Regions()) })
	gauge("regions_in_use", "Memory regions that a Faaslet holds, or that are being cleaned.", func() float64 { n, _ := h.functions.regions(); return float64(n) })
	gauge("regions_idle", "Clean memory regions at hand.", func() float64 { _, n := h.functions.regions(); return float64(n) })
	gauge("functions_resident", "Functions whose code and image are in memory.", func() float64 { return float64(h.functions.resident.count()) })
	gauge("resident_bytes", "What code, images and clean regions keep in memory.", func() float64 { return float64(h.functions.resident.bytes()) })
	gauge("memory_budget_bytes", "What they may keep.", func() float64 { return float64(h.opts.MemoryBudget) })
	counter := func(name, help string, labels prometheus.Labels, value *atomic.Uint64) {
		r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "faasm", Name: name, Help: help, ConstLabels: labels},
			func() float64 { return float64(value.Load()) }))
	}
	counter("functions_evicted_total", "Functions whose code was given up to keep the memory budget.", nil, &h.functions.resident.evicted)
	for how := range h.functions.loads {
		counter("functions_loaded_total", "Functions whose code was loaded, by what had to be done.", prometheus.Labels{"how": loadedHow(how).String()}, &h.functions.loads[how])
	}
	gauge("state_replicas", "Values of state that are in this host's memory.", func() float64 { return float64(h.state.Stats().Replicas) })
	gauge("state_memory_bytes", "What they take, with what is kept to find their changes.", func() float64 { return float64(h.state.Stats().MemoryBytes) })
	gauge("state_memory_max_bytes", "What they may take.", func() float64 { return float64(h.opts.StateMemory) })
	moved := func(name, help string, value func(global.Moved) uint64) {
		r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "faasm", Name: name, Help: help},
			func() float64 { return float64(value(h.store.Moved())) }))
	}
	moved("state_sent_bytes_total", "Bytes of values that went to the global tier.", func(m global.Moved) uint64 { return m.Sent })
	moved("state_received_bytes_total", "Bytes of values that came from the global tier.", func(m global.Moved) uint64 { return m.Received })
	gauge("functions", "Functions deployed.", func() float64 { _, n := h.functions.count(); return float64(n) })
	for o := range h.outcomes {
		counter("calls_total", "Calls that have ended, chained ones included, by outcome.",
			prometheus.Labels{"outcome": call.Outcome(o).String()}, &h.outcomes[o])
	}
	return r
}
