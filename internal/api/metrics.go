package api

import (
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are those of HTTP alone; what calls did is counted by who runs them.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inFlight prometheus.Gauge
}

func newMetrics(reg *prometheus.Registry) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "faasm_http_requests_total",
			Help: "Requests answered, by route and HTTP status.",
		}, []string{"route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "faasm_http_request_seconds",
			Help:    "Time from a request's header to the end of its handler, waiting included.",
			Buckets: []float64{25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "faasm_http_requests_in_flight",
			Help: "Requests being answered now, followed logs and long polls included.",
		}),
	}
	reg.MustRegister(m.requests, m.seconds, m.inFlight)
	return m
}

func (m *metrics) route(name string) *routeMetrics {
	return &routeMetrics{
		seconds: m.seconds.WithLabelValues(name),
		counter: func(status int) prometheus.Counter {
			return m.requests.WithLabelValues(name, strconv.Itoa(status))
		},
	}
}

// routeMetrics are one route's, resolved, because looking a label up costs as much as
// the rest of a call's accounting together. Counters are made at the first request of
// their status, so that /metrics does not list every status of every route.
type routeMetrics struct {
	seconds  prometheus.Observer
	counter  func(status int) prometheus.Counter
	byStatus [statusMax]atomic.Pointer[prometheus.Counter]
}

// statusMax is above every status this package sends.
const statusMax = 600

func (m *routeMetrics) observe(status int, took time.Duration) {
	if status == 0 {
		status = http.StatusOK // what net/http sends for a handler that wrote nothing
	}
	m.seconds.Observe(took.Seconds())
	c := m.byStatus[status].Load()
	if c == nil {
		made := m.counter(status) // the same for everyone who asks
		c = &made
		m.byStatus[status].Store(c)
	}
	(*c).Inc()
}
