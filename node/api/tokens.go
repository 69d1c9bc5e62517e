package api

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

// Tokens answers for the join tokens. A ref is the beginning of a token's id, at least 6 digits.
type Tokens interface {
	// CreateToken makes a token that the gateway which is asked issues: only there its uses are counted.
	CreateToken(ctx context.Context, t NewToken) (MintedToken, error)
	// ListTokens returns all tokens, the oldest first, without their secrets.
	ListTokens(ctx context.Context) ([]Token, error)
	// RevokeToken ends a token for good.
	RevokeToken(ctx context.Context, ref string) (Token, error)
}

// NewToken is what a token is to permit. Zero values mean the defaults.
type NewToken struct {
	TTL     int      `json:"ttl"`               // seconds; an hour
	Uses    int      `json:"uses"`              // gateways that may join by it; one
	Host    string   `json:"host,omitempty"`    // prefix of addresses from which it may be used; anywhere
	Standby bool     `json:"standby,omitempty"` // who joins by it takes no devices while others can
	Label   string   `json:"label,omitempty"`   // for people
	Address []string `json:"address,omitempty"` // further host[:port] at which this gateway can be asked
}

// States of a token.
const (
	TokenOpen    = "open"
	TokenUsed    = "used up"
	TokenExpired = "expired"
	TokenRevoked = "revoked"
	TokenInvalid = "key replaced" // it was made under a cluster key that counts no more
	// TokenWaiting is open, but its issuer, which is the gateway that is asked, has not heard from another one since it
	// started, and takes none before.
	TokenWaiting = "waiting"
)

// Token is a join token.
type Token struct {
	ID      string    `json:"id"`
	State   string    `json:"state"`
	Label   string    `json:"label"`
	Gateway string    `json:"gateway"` // name of its issuer
	Issuer  string    `json:"issuer"`  // id of its issuer
	Uses    int       `json:"uses"`    // granted
	Spent   int       `json:"spent"`
	UsedBy  []string  `json:"used_by"` // names of gateways, ids of those that have none
	Host    string    `json:"host"`    // prefix; "": from anywhere
	Standby bool      `json:"standby"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
}

// MintedToken is a token with its secret, which is told once.
type MintedToken struct {
	Token
	Secret string `json:"token"` // gmt1-…
}

// CreateToken implements [Tokens].
func (c *Client) CreateToken(ctx context.Context, t NewToken) (MintedToken, error) {
	return call[MintedToken](ctx, c, http.MethodPost, "/v1/tokens", t)
}

// ListTokens implements [Tokens].
func (c *Client) ListTokens(ctx context.Context) ([]Token, error) {
	return call[[]Token](ctx, c, http.MethodGet, "/v1/tokens", nil)
}

// RevokeToken implements [Tokens].
func (c *Client) RevokeToken(ctx context.Context, ref string) (Token, error) {
	return call[Token](ctx, c, http.MethodDelete, "/v1/tokens/"+url.PathEscape(ref), nil)
}

func tokenRoutes(mux *http.ServeMux, s Tokens, log *slog.Logger) {
	route(mux, log, "POST /v1/tokens", func(ctx context.Context, _ string, t NewToken) (MintedToken, error) {
		return s.CreateToken(ctx, t)
	})
	route(mux, log, "GET /v1/tokens", func(ctx context.Context, _ string, _ none) ([]Token, error) {
		return s.ListTokens(ctx)
	})
	route(mux, log, "DELETE /v1/tokens/{ref}", func(ctx context.Context, ref string, _ none) (Token, error) {
		return s.RevokeToken(ctx, ref)
	})
}
