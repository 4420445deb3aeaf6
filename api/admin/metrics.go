package admin

import (
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are what /metrics shows: the node's own, and those of the default
// registry, where the Go runtime, the process and libp2p have theirs.
type metrics struct {
	server   *Server
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	open     *prometheus.GaugeVec
	handler  http.Handler
}

// The descriptions of what is collected when somebody asks.
var (
	descInfo      = prometheus.NewDesc("tokenim_info", "Version of the program and name of the node; always 1.", []string{"version", "name"}, nil)
	descReady     = prometheus.NewDesc("tokenim_ready", "Whether start-up recovery is done.", nil, nil)
	descUsers     = prometheus.NewDesc("tokenim_users", "Accounts that are not deactivated.", nil, nil)
	descOnline    = prometheus.NewDesc("tokenim_users_online", "Accounts seen within five minutes.", nil, nil)
	descRooms     = prometheus.NewDesc("tokenim_rooms", "Rooms held here.", nil, nil)
	descFederated = prometheus.NewDesc("tokenim_rooms_federated", "Rooms held here that are shared with other nodes.", nil, nil)
	descEvents    = prometheus.NewDesc("tokenim_events_total", "Accepted events by origin.", []string{"origin"}, nil)
	descPeers     = prometheus.NewDesc("tokenim_peers", "Pinned or connected peers by state.", []string{"state"}, nil)
	descBytes     = prometheus.NewDesc("tokenim_store_bytes", "Size of the store on disk.", nil, nil)
	descWaiting   = prometheus.NewDesc("tokenim_feed_keys", "Distinct things that long-polls wait for.", nil, nil)
)

// newMetrics makes the registry of one server: several nodes can live in one
// process.
func newMetrics(s *Server) *metrics {
	m := &metrics{
		server: s,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tokenim_http_requests_total", Help: "HTTP requests by class of route and status.",
		}, []string{"class", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tokenim_http_request_seconds", Help: "Time to answer HTTP requests by class of route; the class sync waits for news.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 30},
		}, []string{"class"}),
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tokenim_http_requests_open", Help: "HTTP requests that are being answered, by class of route.",
		}, []string{"class"}),
	}
	own := prometheus.NewRegistry()
	own.MustRegister(m, m.requests, m.seconds, m.open)
	m.handler = promhttp.HandlerFor(prometheus.Gatherers{own, prometheus.DefaultGatherer}, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4, Timeout: 10 * time.Second,
	})
	return m
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descInfo, descReady, descUsers, descOnline, descRooms, descFederated, descEvents, descPeers, descBytes, descWaiting} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	s, err := m.server.collect()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(descUsers, err)
		return
	}
	ready := 0.0
	if m.server.cfg.Node.Ready() {
		ready = 1
	}
	gauge(descInfo, 1, s.Version, string(s.Name))
	gauge(descReady, ready)
	gauge(descUsers, float64(s.Users.Local))
	gauge(descOnline, float64(s.Users.Online))
	gauge(descRooms, float64(s.Rooms.Local))
	gauge(descFederated, float64(s.Rooms.Federated))
	ch <- prometheus.MustNewConstMetric(descEvents, prometheus.CounterValue, float64(s.Events.Local), "local")
	ch <- prometheus.MustNewConstMetric(descEvents, prometheus.CounterValue, float64(s.Events.Remote), "remote")
	states := map[string]float64{"connected": 0, "connecting": 0, "disconnected": 0}
	for _, p := range s.Peers {
		states[p.State]++
	}
	for state, n := range states {
		gauge(descPeers, n, state)
	}
	gauge(descBytes, float64(s.Store.Bytes))
	gauge(descWaiting, float64(m.server.cfg.Node.Feed.Waiting()))
}

// Begin counts a request of any API that is going to be answered.
func (s *Server) Begin(r *http.Request) { s.metrics.open.WithLabelValues(class(r)).Inc() }

// Observe counts the request after it was answered.
func (s *Server) Observe(r *http.Request, status int, took time.Duration) {
	c := class(r)
	s.metrics.open.WithLabelValues(c).Dec()
	s.metrics.requests.WithLabelValues(c, strconv.Itoa(status)).Inc()
	s.metrics.seconds.WithLabelValues(c).Observe(took.Seconds())
}

// class names the kind of route of a request: few values, and nothing in them
// that a client chose.
func class(r *http.Request) string {
	path := r.URL.Path
	switch {
	case strings.HasPrefix(path, "/_matrix/client/"):
		switch {
		case strings.HasSuffix(path, "/sync"):
			return "sync"
		case strings.Contains(path, "/send/") && r.Method == http.MethodPut:
			return "send"
		case strings.HasSuffix(path, "/login"), strings.HasSuffix(path, "/register"):
			return "login"
		}
		return "client"
	case strings.HasPrefix(path, "/_matrix/media/"):
		return "media"
	case strings.HasPrefix(path, "/_tokenim/"), strings.HasPrefix(path, "/_synapse/"):
		return "admin"
	case path == "/healthz", path == "/readyz", path == "/metrics":
		return "health"
	}
	return "other"
}

// serveMetrics answers processes of this machine and administrators. A request
// that a proxy on this machine handed on is not of this machine: such a header
// never gives rights, it only takes them.
func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request) error {
	if !fromThisMachine(r) {
		if err := s.requireAdmin(r); err != nil {
			return err
		}
	}
	s.metrics.handler.ServeHTTP(w, r)
	return nil
}

func fromThisMachine(r *http.Request) bool {
	for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
		if r.Header.Get(h) != "" {
			return false
		}
	}
	ip := net.ParseIP(remoteIP(r))
	return ip != nil && ip.IsLoopback()
}
