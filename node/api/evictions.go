package api

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

// Evictions answers for gateways that are no members any more, against their will.
type Evictions interface {
	// EvictGateway ends the membership of a gateway, by name or id, for good.
	EvictGateway(ctx context.Context, gateway string) (Eviction, error)
	// ListEvictions returns all evictions, the newest first.
	ListEvictions(ctx context.Context) ([]Eviction, error)
	// ReadmitGateway admits a gateway that only an evicted one had admitted, by name or id.
	ReadmitGateway(ctx context.Context, gateway string) (Readmitted, error)
}

// Eviction is a gateway that was evicted, and what is to be looked at.
type Eviction struct {
	Name    string    `json:"name"`
	ID      string    `json:"id"`
	At      time.Time `json:"at"`
	By      string    `json:"by"`      // name of the gateway at which it was evicted
	Tokens  int       `json:"tokens"`  // that it had issued, all revoked
	Written []Written `json:"written"` // by it in the last 30 days, newest first: to be reviewed
	// Suspended were admitted by it, or by whom it brought along, unknown to the others: no members until readmitted.
	Suspended []Waiting  `json:"suspended"`
	Exposed   []Exposure `json:"exposed"` // what it may have read
	// Passwords names the users who are to be given another password: theirs is older than an eviction, or an evicted
	// gateway set it. They cannot log on to join.
	Passwords []string `json:"passwords"`
}

// Written is a device, setting or other thing that an evicted gateway wrote last.
type Written struct {
	Kind   string    `json:"kind"`
	Name   string    `json:"name"` // "" if it has none
	ID     string    `json:"id"`
	Fields []string  `json:"fields"`
	At     time.Time `json:"at"`     // by its clock
	Beyond bool      `json:"beyond"` // not known where it was evicted
}

// Waiting is a gateway whose admission does not stand.
type Waiting struct {
	Name string `json:"name"`
	ID   string `json:"id"`
}

// Exposure is a secret that an evicted gateway knew.
type Exposure struct {
	What   string `json:"what"`
	Remedy string `json:"remedy"`
	Done   bool   `json:"done"` // it was replaced with the eviction
}

// Readmitted is a gateway whose admission stands again.
type Readmitted struct {
	Name string `json:"name"`
	ID   string `json:"id"`
}

func evictionRoutes(mux *http.ServeMux, s Service, log *slog.Logger) {
	route(mux, log, "GET /v1/evictions", func(ctx context.Context, _ string, _ none) ([]Eviction, error) {
		return s.ListEvictions(ctx)
	})
	route(mux, log, "POST /v1/gateways/{ref}/evict", func(ctx context.Context, ref string, _ none) (Eviction, error) {
		return s.EvictGateway(ctx, ref)
	})
	route(mux, log, "POST /v1/gateways/{ref}/admit", func(ctx context.Context, ref string, _ none) (Readmitted, error) {
		return s.ReadmitGateway(ctx, ref)
	})
}

// EvictGateway implements [Evictions].
func (c *Client) EvictGateway(ctx context.Context, gateway string) (Eviction, error) {
	return call[Eviction](ctx, c, http.MethodPost, "/v1/gateways/"+url.PathEscape(gateway)+"/evict", nil)
}

// ListEvictions implements [Evictions].
func (c *Client) ListEvictions(ctx context.Context) ([]Eviction, error) {
	return call[[]Eviction](ctx, c, http.MethodGet, "/v1/evictions", nil)
}

// ReadmitGateway implements [Evictions].
func (c *Client) ReadmitGateway(ctx context.Context, gateway string) (Readmitted, error) {
	return call[Readmitted](ctx, c, http.MethodPost, "/v1/gateways/"+url.PathEscape(gateway)+"/admit", nil)
}
