package node_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/node"
	"gatemesh/node/api"
	"gatemesh/node/nodetest"
)

// lossy is a gateway that crashed each time between a write and the keeping of its answer.
type lossy struct{ *node.Node }

func (lossy) Remember(context.Context, api.Request, []byte) error { return nil }

// A request that comes again is not refused because its first coming has done what it asks for.
func TestRepeatedRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 900)
		a := w.Gateway(1, "a")
		a.Start()
		w.WaitReady(10*time.Second, a)
		for _, name := range []string{"one", "two", "three"} {
			w.Enrol(a, name)
		}
		h := api.Handler(lossy{a.Node}, slog.New(slog.DiscardHandler))
		ask := func(key, method, path, body string) (int, string) {
			r := httptest.NewRequest(method, path, strings.NewReader(body))
			r.Header.Set(api.KeyHeader, key)
			answer := httptest.NewRecorder()
			h.ServeHTTP(answer, r)
			return answer.Code, answer.Body.String()
		}
		const key = "d9DSRxsOYkVXUDKHpTjbwSo0RXIRRHBp+Nsrcu9hpGM="
		for _, c := range []struct{ method, path, body string }{
			{http.MethodDelete, "/v1/devices/one", ""},
			{http.MethodPatch, "/v1/devices/two", `{"name":"four","enabled":false}`},
			{http.MethodPost, "/v1/devices/three/rekey", `{"public_key":"` + key + `"}`},
		} {
			first, want := ask("k", c.method, c.path, c.body)
			second, got := ask("k", c.method, c.path, c.body)
			if first != http.StatusOK || second != http.StatusOK || got != want {
				t.Errorf("%s %s: %d %s, then %d %s", c.method, c.path, first, want, second, got)
			}
		}
		if code, _ := ask("another", http.MethodDelete, "/v1/devices/one", ""); code != http.StatusNotFound {
			t.Errorf("another request to remove what is gone: %d", code)
		}
	})
}
