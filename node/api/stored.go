package api

import (
	"context"
	"fmt"
	"net/http"
)

// Stored says on how many of the admitted gateways a change is durable.
type Stored struct{ On, Of int }

// Writes is what a [Service] also is if it can tell how far its changes have come. The answer to a request that changed
// something has a header "Gatemesh-Stored: 2/3" then.
type Writes interface {
	// Position returns a comparable value that every change alters.
	Position() any
	// Stored waits for the first other gateway, at most 300 ms; false means that nothing has changed since before.
	Stored(ctx context.Context, before any) (Stored, bool)
}

const storedHeader = "Gatemesh-Stored"

// tellStored adds the header to the answers of next.
func tellStored(w Writes, next http.Handler) http.Handler {
	return http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			out = &storedWriter{ResponseWriter: out, ctx: r.Context(), writes: w, before: w.Position()}
		}
		next.ServeHTTP(out, r)
	})
}

// storedWriter adds the header when the answer begins.
type storedWriter struct {
	http.ResponseWriter
	ctx    context.Context
	writes Writes
	before any
}

func (w *storedWriter) WriteHeader(status int) {
	if status == http.StatusOK {
		if s, ok := w.writes.Stored(w.ctx, w.before); ok {
			w.Header().Set(storedHeader, fmt.Sprintf("%d/%d", s.On, s.Of))
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// parseStored reads the header; false means that there is none.
func parseStored(h http.Header) (s Stored, ok bool) {
	n, err := fmt.Sscanf(h.Get(storedHeader), "%d/%d", &s.On, &s.Of)
	return s, err == nil && n == 2
}
