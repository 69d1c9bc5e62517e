package api

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

// Keys answers for the secrets that the gateways share and that may be replaced while they run. No secret is told.
type Keys interface {
	// KeyRing returns the keys that hold, and how far their replacement is.
	KeyRing(ctx context.Context) (KeyRing, error)
	// RotateKey replaces the keys of a kind, KeyGossip or KeyCluster.
	RotateKey(ctx context.Context, kind string, r Rotation) (KeyRing, error)
}

// Kinds of keys.
const (
	KeyGossip  = "gossip"  // wraps what the gateways gossip
	KeyCluster = "cluster" // is proven by gateways that join
)

// What becomes of a key.
const (
	KeyNew   = "new"    // is being installed everywhere
	KeyInUse = "in use" // by the gateway that answers
	KeyOld   = "old"    // still accepted
)

// KeyRing is all keys that hold, the newest first, of both kinds.
type KeyRing struct {
	Gateway string      `json:"gateway"` // name of the gateway that answers
	Keys    []Key       `json:"keys"`
	Status  []KeyStatus `json:"status"` // one per kind
}

// Key is one key without its secret.
type Key struct {
	Kind   string     `json:"kind"`
	ID     string     `json:"id"`
	State  string     `json:"state"` // KeyNew, KeyInUse or KeyOld
	Made   *time.Time `json:"made"`  // nil: with the cluster
	By     string     `json:"by"`    // name of the gateway where it was made; "" for those made with the cluster
	Held   int        `json:"held"`  // gateways that accept it
	Used   int        `json:"used"`  // gateways that use it
	Of     int        `json:"of"`    // admitted gateways
	Urgent bool       `json:"urgent"`
	Behind []string   `json:"behind"` // names of gateways that are not waited for
}

// KeyStatus says how far the replacement of the keys of a kind is.
type KeyStatus struct {
	Kind    string    `json:"kind"`
	Turning bool      `json:"turning"` // more than one key holds
	Waits   []KeyWait `json:"waits"`   // for whom the oldest key is kept
}

// KeyWait is a gateway that does not use a newer key yet.
type KeyWait struct {
	Name    string `json:"name"`
	ID      string `json:"id"`
	Present bool   `json:"present"` // it is seen alive
}

// Rotation says how keys are replaced.
type Rotation struct {
	// Behind are gateways, by name or id, that are not waited for: the old keys go without them. While a
	// replacement is under way it goes on without them, and no further key is made.
	Behind []string `json:"behind,omitempty"`
}

func keyRoutes(mux *http.ServeMux, s Service, log *slog.Logger) {
	route(mux, log, "GET /v1/keys", func(ctx context.Context, _ string, _ none) (KeyRing, error) {
		return s.KeyRing(ctx)
	})
	route(mux, log, "POST /v1/keys/{ref}/rotate", func(ctx context.Context, ref string, r Rotation) (KeyRing, error) {
		return s.RotateKey(ctx, ref, r)
	})
}

// KeyRing implements [Keys].
func (c *Client) KeyRing(ctx context.Context) (KeyRing, error) {
	return call[KeyRing](ctx, c, http.MethodGet, "/v1/keys", nil)
}

// RotateKey implements [Keys].
func (c *Client) RotateKey(ctx context.Context, kind string, r Rotation) (KeyRing, error) {
	return call[KeyRing](ctx, c, http.MethodPost, "/v1/keys/"+url.PathEscape(kind)+"/rotate", r)
}
