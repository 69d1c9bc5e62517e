package api

import (
	"context"
	"log/slog"
	"net/http"
)

// Resets takes the gateway that is asked out of its cluster.
type Resets interface {
	// ResetGateway hands its devices over, says goodbye to the others for good, and ends the gateway. At its next start
	// it is a new one.
	ResetGateway(ctx context.Context, r Reset) (ResetDone, error)
}

// Reset is a request to leave the cluster.
type Reset struct {
	Force bool `json:"force"` // also while others are connected
}

// ResetDone says what became of it.
type ResetDone struct {
	Cluster string `json:"cluster"` // that it has left
	Saved   string `json:"saved"`   // directory where what it was will be at its next start
	Moved   int    `json:"moved"`   // devices that other gateways have heard
	Left    int    `json:"left"`    // devices that it served and none has heard
	Told    int    `json:"told"`    // other gateways that know that it is gone
}

// ResetGateway implements [Resets].
func (c *Client) ResetGateway(ctx context.Context, r Reset) (ResetDone, error) {
	return call[ResetDone](ctx, c, http.MethodPost, "/v1/reset", r)
}

func resetRoutes(mux *http.ServeMux, s Resets, log *slog.Logger) {
	route(mux, log, "POST /v1/reset", func(ctx context.Context, _ string, r Reset) (ResetDone, error) {
		return s.ResetGateway(ctx, r)
	})
}
