package openstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// recorder remembers what was answered. It stays an io.ReaderFrom so that a file goes to a socket by sendfile.
type recorder struct {
	http.ResponseWriter
	code  int
	bytes int64
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader records the first final status.
func (w *recorder) WriteHeader(code int) {
	if w.code == 0 && code >= http.StatusOK {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write counts the bytes.
func (w *recorder) Write(p []byte) (int, error) {
	w.began()
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// ReadFrom copies from src, by the connection's own means if it has any.
func (w *recorder) ReadFrom(src io.Reader) (int64, error) {
	w.began()
	n, err := io.Copy(w.ResponseWriter, src)
	w.bytes += n
	return n, err
}

func (w *recorder) began() {
	if w.code == 0 {
		w.code = http.StatusOK
	}
}

// status is what the client saw: a handler that wrote nothing answered 200.
func (w *recorder) status() int {
	if w.code == 0 {
		return http.StatusOK
	}
	return w.code
}

// panicError is a recovered panic.
type panicError struct {
	value any
	stack []byte
}

// Error returns the panic's value.
func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// recovered, deferred, stores a panic as an error. The abort panic is net/http's and goes on.
func recovered(err *error) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler { //nolint:errorlint // net/http compares by identity too
		panic(v)
	}
	*err = &panicError{v, debug.Stack()}
}

// log records an error that is ours with its text, which the client did not see.
func (rt *Routes) log(r *Request, err error, code int) {
	// 501 is an answer, not a failure: the client asked for what nobody offers.
	if code < http.StatusInternalServerError || code == http.StatusNotImplemented || errors.Is(err, context.Canceled) {
		return
	}
	attrs := []any{"request", r.ID, "method", r.Method, "path", r.URL.Path, "error", err}
	var p *panicError
	if errors.As(err, &p) {
		attrs = append(attrs, "stack", string(p.stack))
	}
	rt.api.options.Logger.Error("request failed", attrs...)
}

// access writes the access log: never a header, a body or a query, which hold secrets.
func (rt *Routes) access(w *recorder, r *Request, elapsed time.Duration) {
	logger := rt.api.options.Logger
	if !logger.Enabled(r.Context(), slog.LevelInfo) {
		return
	}
	attrs := []slog.Attr{
		slog.String("request", r.ID), slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Int("status", w.status()),
		slog.Int64("bytes", w.bytes), slog.Duration("took", elapsed), slog.String("remote", r.RemoteAddr),
	}
	if c := r.Caller; c != nil {
		attrs = append(attrs, slog.String("user", string(c.User)), slog.String("project", string(c.Project)))
	}
	if r.Version != (Microversion{}) {
		attrs = append(attrs, slog.String("version", r.Version.String()))
	}
	logger.LogAttrs(r.Context(), slog.LevelInfo, "request", attrs...)
}

// metrics count requests. Labels are bounded: services and routes are ours, methods and codes are folded to known ones.
type metrics struct {
	total   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "godwit_http_requests_total", Help: "API requests by service, route, method and status.",
		}, []string{"service", "route", "method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "godwit_http_request_duration_seconds", Help: "Time from the request's arrival to the end of its answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
		}, []string{"service"}),
	}
	reg.MustRegister(m.total, m.seconds)
	return m
}

type routeMetrics struct {
	total   *prometheus.CounterVec
	seconds prometheus.Observer
}

func (m *metrics) route(service, route string) routeMetrics {
	return routeMetrics{m.total.MustCurryWith(prometheus.Labels{"service": service, "route": route}), m.seconds.WithLabelValues(service)}
}

func (m routeMetrics) observe(method string, code int, elapsed time.Duration) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
	default:
		method = "other" // a client may send any word
	}
	m.total.WithLabelValues(method, strconv.Itoa(code)).Inc()
	m.seconds.Observe(elapsed.Seconds())
}
