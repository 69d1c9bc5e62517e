package api_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"gatemesh/node/api"
)

// counting is a gateway that adds devices and remembers answers.
type counting struct {
	api.Service
	mu      sync.Mutex // guards the fields below
	added   int
	known   map[api.Request][]byte
	refuses error
}

func (c *counting) AddDevice(_ context.Context, d api.NewDevice) (api.Enrolment, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuses != nil {
		return api.Enrolment{}, c.refuses
	}
	c.added++
	return api.Enrolment{Device: api.Device{Name: d.Name}, Keepalive: c.added}, nil
}

func (c *counting) Recall(_ context.Context, r api.Request) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[r], nil
}

func (c *counting) Remember(_ context.Context, r api.Request, answer []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[r] = answer
	return nil
}

func (c *counting) ApplyConfig(_ context.Context, a api.ConfigApply) (api.ConfigApplied, error) {
	return api.ConfigApplied{Changes: make([]api.ConfigChange, len(a.Config.Devices))}, nil
}

// full is an error that knows what to do.
type full struct{}

func (full) Error() string { return "no room" }
func (full) Hint() string  { return "make some" }

func TestRepeatedRequest(t *testing.T) {
	s := &counting{known: map[api.Request][]byte{}}
	h := api.Handler(s, slog.New(slog.DiscardHandler))
	post := func(key, body string) (int, string) {
		r := httptest.NewRequest(http.MethodPost, "/v1/devices", strings.NewReader(body))
		r.Header.Set(api.KeyHeader, key)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	const a, b = `{"name":"a"}`, `{"name":"b"}`
	status, first := post("1", a)
	if status != http.StatusOK || s.added != 1 {
		t.Fatal(status, first, s.added)
	}
	if status, again := post("1", a); status != http.StatusOK || again != first || s.added != 1 {
		t.Errorf("repeated: %d %s, carried out %d times", status, again, s.added)
	}
	if _, other := post("1", b); other == first || s.added != 2 {
		t.Errorf("another request under the same key: %s", other)
	}
	if _, other := post("2", a); other == first || s.added != 3 {
		t.Errorf("the same request under another key: %s", other)
	}
	if _, other := post("", a); other == first || s.added != 4 {
		t.Errorf("without a key: %s", other)
	}
	if status, text := post(strings.Repeat("k", 65), a); status != http.StatusBadRequest || !strings.Contains(text, "64") {
		t.Errorf("a long key: %d %s", status, text)
	}
	if status, text := post("3", strings.Repeat("x", 100<<10)); status != http.StatusBadRequest {
		t.Errorf("a long body: %d %s", status, text)
	}
	s.refuses = full{}
	if status, text := post("4", a); status != http.StatusServiceUnavailable || !strings.Contains(text, `"hint":"make some"`) {
		t.Errorf("refused: %d %s", status, text)
	}
	s.refuses = nil
	if status, text := post("4", a); status != http.StatusOK {
		t.Errorf("a refusal was remembered: %d %s", status, text)
	}
}

// cutting closes its first connections when their answer is to be written.
type cutting struct {
	net.Listener
	left int
}

func (c *cutting) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil && c.left > 0 {
		c.left--
		return mute{conn}, nil
	}
	return conn, err
}

type mute struct{ net.Conn }

func (m mute) Write([]byte) (int, error) {
	_ = m.Close()
	return 0, net.ErrClosed
}

// answering returns a client of a gateway that breaks its first connections.
func answering(t *testing.T, s api.Service, broken int) *api.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: api.Handler(s, slog.New(slog.DiscardHandler))}
	go func() { _ = srv.Serve(&cutting{l, broken}) }()
	t.Cleanup(func() { _ = srv.Close() })
	c := api.NewClient(path)
	t.Cleanup(c.Close)
	return c
}

// A client whose connection breaks before the answer asks again, and what it asked is done once.
func TestBrokenConnection(t *testing.T) {
	s := &counting{known: map[api.Request][]byte{}}
	e, err := answering(t, s, 1).AddDevice(context.Background(), api.NewDevice{Name: "a"})
	if err != nil || e.Keepalive != 1 || s.added != 1 {
		t.Errorf("%+v, %v, carried out %d times", e, err, s.added)
	}
}

// A configuration may be larger than what is remembered of a request.
func TestLargeConfig(t *testing.T) {
	c := answering(t, &counting{known: map[api.Request][]byte{}}, 0)
	devices := make([]api.ConfigDevice, 10_000)
	out, err := c.ApplyConfig(context.Background(), api.ConfigApply{Config: api.Config{Devices: devices}})
	if err != nil || len(out.Changes) != len(devices) {
		t.Errorf("%d changes, %v", len(out.Changes), err)
	}
}
