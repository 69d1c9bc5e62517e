package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net/http"
)

// KeyHeader names a request that changes something. Whoever gets no answer sends the request again under the same key:
// it is carried out once, and its answer is that of the first. Another request under the same key is another request.
const KeyHeader = "Idempotency-Key"

// maxKey bounds such a key, in bytes.
const maxKey = 64

// Request identifies a request with its key.
type Request [16]byte

// Memory remembers answers, for a day.
type Memory interface {
	// Recall returns the answer to a request, nil if none is known.
	Recall(ctx context.Context, r Request) (answer []byte, err error)
	// Remember keeps the answer to a request.
	Remember(ctx context.Context, r Request, answer []byte) error
}

type requestKey struct{}

// RequestOf returns the request that a context is of, if it has a key.
func RequestOf(ctx context.Context) (Request, bool) {
	r, ok := ctx.Value(requestKey{}).(Request)
	return r, ok
}

// once gives a request that came before the answer of then.
func once(next http.Handler, m Memory, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get(KeyHeader)
		if key == "" || r.Method == http.MethodGet {
			next.ServeHTTP(w, r)
			return
		}
		if len(key) > maxKey {
			reply(w, http.StatusBadRequest, Errorf(Invalid, "", "%s of %d bytes: it may have %d", KeyHeader, len(key), maxKey))
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			reply(w, http.StatusBadRequest, Errorf(Invalid, "", "request: %v", err))
			return
		}
		id := identify(key, r.Method, r.URL.Path, body)
		if answer, err := m.Recall(r.Context(), id); err != nil {
			log.Error("recall an answer", "err", err)
		} else if answer != nil {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(answer) // the client went away: nobody is left to tell
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		kept := &keeper{ResponseWriter: w}
		next.ServeHTTP(kept, r.WithContext(context.WithValue(r.Context(), requestKey{}, id)))
		if !kept.refused {
			// The client may be gone, so that it will ask again.
			if err := m.Remember(context.WithoutCancel(r.Context()), id, kept.answer.Bytes()); err != nil {
				log.Warn("an answer is not kept", "err", err)
			}
		}
		kept.send()
	})
}

// keeper holds an answer back until it is remembered.
type keeper struct {
	http.ResponseWriter
	answer  bytes.Buffer
	status  int
	refused bool
}

func (k *keeper) WriteHeader(status int) { k.status, k.refused = status, status != http.StatusOK }

func (k *keeper) Write(b []byte) (int, error) { return k.answer.Write(b) }

func (k *keeper) send() {
	if k.status != 0 {
		k.ResponseWriter.WriteHeader(k.status)
	}
	_, _ = k.ResponseWriter.Write(k.answer.Bytes()) // the client went away: nobody is left to tell
}

// identify tells requests apart. The lengths keep the parts from running together.
func identify(key, method, path string, body []byte) Request {
	h := sha256.New()
	fmt.Fprintf(h, "%d %s %s %d %s ", len(key), key, method, len(path), path)
	h.Write(body)
	return Request(h.Sum(nil)[:16])
}

// newKey returns a key that nobody else will use.
func newKey() string { return rand.Text() }
