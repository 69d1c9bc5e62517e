package api

import (
	"context"
	"log/slog"
	"net/http"
)

// Claims answers for gateways that come over from elsewhere.
type Claims interface {
	// ClaimCode returns the code with which a member of another cluster may claim this gateway; it makes one if there
	// is none, or another.
	ClaimCode(ctx context.Context, q ClaimCodeQuery) (ClaimCode, error)
	// LookAt asks another gateway, which must know the code, what it would give up.
	LookAt(ctx context.Context, a GatewayAt) (Candidate, error)
	// AddGateway has another gateway give up its cluster and join this one. It returns when that one has joined, or
	// after a minute.
	AddGateway(ctx context.Context, a GatewayAt) (AddedGateway, error)
}

// ClaimCodeQuery asks for the code.
type ClaimCodeQuery struct {
	Renew bool `json:"renew"` // make another one; the old one is good for nothing then
}

// ClaimCode is a gateway's code.
type ClaimCode struct {
	Code        string `json:"code"`
	Mesh        string `json:"mesh"`        // host:port at which it may be claimed
	Fingerprint string `json:"fingerprint"` // of the gateway: its id
}

// GatewayAt is another gateway, and what it is to be added with.
type GatewayAt struct {
	Address string `json:"address"` // host[:port] of its mesh
	Code    string `json:"code"`
	// Fingerprint is what LookAt has shown. AddGateway needs it and talks to nobody else.
	Fingerprint string `json:"fingerprint,omitempty"`
	Force       bool   `json:"force,omitempty"` // also if other gateways are connected to it
}

// Candidate is a gateway that may be added.
type Candidate struct {
	Fingerprint string `json:"fingerprint"`
	Name        string `json:"name"`
	Version     string `json:"version"`
	Cluster     string `json:"cluster"`   // that it would leave
	Devices     int    `json:"devices"`   // enrolled there
	Gateways    int    `json:"gateways"`  // of that cluster, itself included
	Connected   int    `json:"connected"` // other gateways that are connected to it
}

// AddedGateway is a gateway that was told to join.
type AddedGateway struct {
	Name   string `json:"name"`
	ID     string `json:"id"`     // its new one
	Saved  string `json:"saved"`  // directory, at that gateway, with all that it has given up
	Joined bool   `json:"joined"` // it is a member now
}

func claimRoutes(mux *http.ServeMux, s Service, log *slog.Logger) {
	route(mux, log, "POST /v1/claim-code", func(ctx context.Context, _ string, q ClaimCodeQuery) (ClaimCode, error) {
		return s.ClaimCode(ctx, q)
	})
	route(mux, log, "POST /v1/candidates", func(ctx context.Context, _ string, a GatewayAt) (Candidate, error) {
		return s.LookAt(ctx, a)
	})
	route(mux, log, "POST /v1/gateways", func(ctx context.Context, _ string, a GatewayAt) (AddedGateway, error) {
		return s.AddGateway(ctx, a)
	})
}

// ClaimCode implements [Claims].
func (c *Client) ClaimCode(ctx context.Context, q ClaimCodeQuery) (ClaimCode, error) {
	return call[ClaimCode](ctx, c, http.MethodPost, "/v1/claim-code", q)
}

// LookAt implements [Claims].
func (c *Client) LookAt(ctx context.Context, a GatewayAt) (Candidate, error) {
	return call[Candidate](ctx, c, http.MethodPost, "/v1/candidates", a)
}

// AddGateway implements [Claims].
func (c *Client) AddGateway(ctx context.Context, a GatewayAt) (AddedGateway, error) {
	return call[AddedGateway](ctx, c, http.MethodPost, "/v1/gateways", a)
}
