package api

import (
	"context"
	"log/slog"
	"net/http"
)

// Doctors answers for what is wrong at a gateway.
type Doctors interface {
	// Doctor looks at everything that is known to go wrong. It takes a few seconds.
	Doctor(ctx context.Context) ([]Check, error)
}

// Results of a check.
const (
	OK   = "ok"
	Warn = "warn" // it works, but not everything or not for long
	Fail = "fail"
)

// Check is one thing that was looked at.
type Check struct {
	Name   string `json:"name"`
	Result string `json:"result"` // OK, Warn or Fail
	Text   string `json:"text"`   // one line
	Hint   string `json:"hint"`   // what to do; "" if nothing
}

// Doctor implements [Doctors].
func (c *Client) Doctor(ctx context.Context) ([]Check, error) {
	return call[[]Check](ctx, c, http.MethodGet, "/v1/doctor", nil)
}

func doctorRoutes(mux *http.ServeMux, s Doctors, log *slog.Logger) {
	route(mux, log, "GET /v1/doctor", func(ctx context.Context, _ string, _ none) ([]Check, error) {
		return s.Doctor(ctx)
	})
}
