package api

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

// Conflicts answers for what gateways did without knowing of each other.
type Conflicts interface {
	// ListConflicts returns the conflicts, the oldest first: the same at every gateway.
	ListConflicts(ctx context.Context) ([]Conflict, error)
	// ResolveConflict ends the conflict whose id begins so, with at least 6 digits.
	ResolveConflict(ctx context.Context, id string, r Resolution) (Conflict, error)
}

// Addresses answers for the addresses inside the tunnel.
type Addresses interface {
	// ListAddresses returns the addresses of all devices, and who claims one that another keeps.
	ListAddresses(ctx context.Context) ([]Address, error)
}

// Conflict is two writes that did not know of each other, or one that is not shown yet.
type Conflict struct {
	ID     string   `json:"id"`
	Reason string   `json:"reason"` // "overwritten", "deleted", "readdressed", "same name", "future"
	Kind   string   `json:"kind"`   // "device", "gateway" or "setting"
	Object string   `json:"object"` // public key, id of a gateway, name of a setting or of several devices
	Name   string   `json:"name"`   // what people call it
	Field  string   `json:"field"`
	Stands Side     `json:"stands"`
	Other  Side     `json:"other"`
	IDs    []string `json:"ids,omitempty"` // of "same name": the devices
}

// Side is one of the two.
type Side struct {
	Value   string     `json:"value"`
	Secret  bool       `json:"secret,omitempty"` // the value is not told
	Gateway string     `json:"gateway"`          // name of the one that wrote it, its id if it has none
	At      *time.Time `json:"at"`               // by that gateway's clock; nil: nothing was written
}

// Takes of a [Resolution].
const (
	TakeWinner = "winner"
	TakeOther  = "other"
)

// Resolution says which side is to stand.
type Resolution struct {
	Take string `json:"take"` // TakeWinner or TakeOther
}

// Address is one device's claim of an address.
type Address struct {
	Address   string `json:"address"`
	Device    string `json:"device"` // name
	ID        string `json:"id"`     // public key
	Keeps     bool   `json:"keeps"`
	Contested bool   `json:"contested"`
	Why       string `json:"why"`
}

// ListConflicts implements [Conflicts].
func (c *Client) ListConflicts(ctx context.Context) ([]Conflict, error) {
	return call[[]Conflict](ctx, c, http.MethodGet, "/v1/conflicts", nil)
}

// ResolveConflict implements [Conflicts].
func (c *Client) ResolveConflict(ctx context.Context, id string, r Resolution) (Conflict, error) {
	return call[Conflict](ctx, c, http.MethodPost, "/v1/conflicts/"+url.PathEscape(id)+"/resolve", r)
}

// ListAddresses implements [Addresses].
func (c *Client) ListAddresses(ctx context.Context) ([]Address, error) {
	return call[[]Address](ctx, c, http.MethodGet, "/v1/addresses", nil)
}

func routeConflicts(mux *http.ServeMux, log *slog.Logger, s Service) {
	route(mux, log, "GET /v1/conflicts", func(ctx context.Context, _ string, _ none) ([]Conflict, error) {
		return s.ListConflicts(ctx)
	})
	route(mux, log, "POST /v1/conflicts/{ref}/resolve", func(ctx context.Context, ref string, r Resolution) (Conflict, error) {
		return s.ResolveConflict(ctx, ref, r)
	})
	route(mux, log, "GET /v1/addresses", func(ctx context.Context, _ string, _ none) ([]Address, error) {
		return s.ListAddresses(ctx)
	})
}
