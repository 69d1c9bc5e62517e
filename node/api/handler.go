package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 64 << 10

// Handler serves s as JSON over HTTP under /v1/. Refusals are [Error]s. If s is a [Memory] too, a request that changes
// something and comes again is given the answer of the first.
func Handler(s Service, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	route(mux, log, "GET /v1/status", func(ctx context.Context, _ string, _ none) (Status, error) {
		return s.Status(ctx)
	})
	route(mux, log, "GET /v1/key", func(ctx context.Context, _ string, _ none) (ClusterKey, error) {
		return s.ClusterKey(ctx)
	})
	route(mux, log, "GET /v1/gateways", func(ctx context.Context, _ string, _ none) ([]Gateway, error) {
		return s.ListGateways(ctx)
	})
	route(mux, log, "POST /v1/drain", func(ctx context.Context, _ string, d Drain) (Drained, error) {
		return s.Drain(ctx, d)
	})
	route(mux, log, "GET /v1/devices", func(ctx context.Context, _ string, _ none) ([]Device, error) {
		return s.ListDevices(ctx)
	})
	route(mux, log, "POST /v1/devices", func(ctx context.Context, _ string, d NewDevice) (Enrolment, error) {
		return s.AddDevice(ctx, d)
	})
	route(mux, log, "GET /v1/devices/{ref}", func(ctx context.Context, ref string, _ none) (Device, error) {
		return s.ShowDevice(ctx, ref)
	})
	route(mux, log, "PATCH /v1/devices/{ref}", func(ctx context.Context, ref string, c DeviceChange) (Device, error) {
		return s.ChangeDevice(ctx, ref, c)
	})
	route(mux, log, "DELETE /v1/devices/{ref}", func(ctx context.Context, ref string, _ none) (none, error) {
		return none{}, s.RemoveDevice(ctx, ref)
	})
	route(mux, log, "POST /v1/devices/{ref}/rekey", func(ctx context.Context, ref string, k NewKey) (Enrolment, error) {
		return s.RekeyDevice(ctx, ref, k)
	})
	routeConflicts(mux, log, s)
	route(mux, log, "GET /v1/sync", func(ctx context.Context, _ string, _ none) (Sync, error) {
		return s.SyncStatus(ctx)
	})
	route(mux, log, "POST /v1/sync/{ref}", func(ctx context.Context, ref string, _ none) (Resynced, error) {
		return s.Resync(ctx, ref)
	})
	administrationRoutes(mux, s, log)
	monitorRoutes(mux, s, log)
	doctorRoutes(mux, s, log)
	backupRoutes(mux, s, log)
	configRoutes(mux, s, log)
	auditRoutes(mux, s, log)
	keyRoutes(mux, s, log)
	evictionRoutes(mux, s, log)
	tokenRoutes(mux, s, log)
	settingRoutes(mux, s, log)
	resetRoutes(mux, s, log)
	userRoutes(mux, s, log)
	claimRoutes(mux, s, log)
	var h http.Handler = mux
	if w, ok := s.(Writes); ok {
		h = tellStored(w, h)
	}
	if m, ok := s.(Memory); ok {
		h = once(h, m, log)
	}
	return h
}

// none is an empty body.
type none struct{}

// route binds a pattern to a function of its {ref} and its decoded body.
func route[In, Out any](mux *http.ServeMux, log *slog.Logger, pattern string, f func(context.Context, string, In) (Out, error)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		var in In
		if _, empty := any(in).(none); !empty {
			if err := decode(http.MaxBytesReader(w, r.Body, maxBody), &in); err != nil {
				var large *http.MaxBytesError
				if errors.As(err, &large) {
					err = fmt.Errorf("it is longer than %d bytes", large.Limit)
				}
				reply(w, http.StatusBadRequest, Errorf(Invalid, "", "request: %v", err))
				return
			}
		}
		out, err := f(r.Context(), r.PathValue("ref"), in)
		if err != nil {
			refuse(w, log, pattern, err)
			return
		}
		reply(w, http.StatusOK, out)
	})
}

// refuse answers with an error.
func refuse(w http.ResponseWriter, log *slog.Logger, pattern string, err error) {
	e := asError(err)
	if e.Code == Internal {
		log.Error("request", "route", pattern, "err", err)
	}
	reply(w, statusOf[e.Code], e)
}

// decode reads exactly one JSON value and refuses fields that it does not know.
func decode(r io.Reader, v any) error {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	return nil
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client went away: nobody is left to tell
}
