package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"
)

// Monitors answers for what happens.
type Monitors interface {
	// Monitor calls f with each event from now on, as the gateway that is asked sees it, until ctx ends, f returns an
	// error, which it returns, or the gateway stops, which is no error. Events wait for f, but not without bound: in
	// the place of those that were left out comes one of kind EventMissed.
	Monitor(ctx context.Context, f func(Event) error) error
}

// Kinds of an event.
const (
	EventJoined     = "joined"      // a gateway was admitted to the cluster
	EventEvicted    = "evicted"     // a gateway was excluded from the cluster
	EventReset      = "reset"       // a gateway has left the cluster for good
	EventRotated    = "rotated"     // this gateway uses another key, or removed an old one
	EventUp         = "up"          // a gateway is linked
	EventFailed     = "failed"      // a gateway is gone without a word
	EventLeft       = "left"        // a gateway is gone by its own word
	EventChanged    = "changed"     // a gateway's name, public address, capacity or role, or version, is another one
	EventReady      = "ready"       // this gateway takes devices
	EventUnready    = "unready"     // this gateway's data path has failed
	EventSteered    = "steered"     // a device that knocked here was sent to the gateway
	EventConnected  = "connected"   // a device is served here, under new keys
	EventTakenOver  = "taken over"  // devices of the gateway are served here
	EventDraining   = "draining"    // this gateway gives its devices away
	EventDrained    = "drained"     // and has done so
	EventConflict   = "conflict"    // two gateways did something without knowing of each other
	EventResolved   = "resolved"    // a conflict is no more
	EventAlarm      = "alarm"       // something is wrong with a gateway
	EventAlarmEnded = "alarm ended" // and is no more
	EventMissed     = "missed"      // events were left out: whoever reads them is too slow
)

// Event is something that happened.
type Event struct {
	Time      time.Time `json:"time"`
	Kind      string    `json:"kind"`
	Gateway   string    `json:"gateway,omitempty"` // name of the one it is about, "" if none
	GatewayID string    `json:"gateway_id,omitempty"`
	Device    string    `json:"device,omitempty"` // name of the one it is about, "" if none
	DeviceID  string    `json:"device_id,omitempty"`
	Count     int       `json:"count,omitempty"` // of devices, or of events that were left out
	Text      string    `json:"text,omitempty"`  // more, in words
}

// maxEvent bounds what a client reads of one event, in bytes.
const maxEvent = 64 << 10

// Monitor implements [Monitors].
func (c *Client) Monitor(ctx context.Context, f func(Event) error) error {
	resp, err := c.send(ctx, http.MethodGet, "/v1/events", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := &io.LimitedReader{R: resp.Body}
	d := json.NewDecoder(lines)
	for {
		lines.N = maxEvent
		var e Event
		if err := d.Decode(&e); err != nil {
			if ctx.Err() != nil || errors.Is(err, io.EOF) && lines.N > 0 {
				return nil //nolint:nilerr // asked to end, or the gateway stops
			}
			return fmt.Errorf("events of the gateway: %w", err)
		}
		if err := f(e); err != nil {
			return err
		}
	}
}

// monitorRoutes serves events as JSON, one a line.
func monitorRoutes(mux *http.ServeMux, s Monitors, log *slog.Logger) {
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		w.Header().Set("Content-Type", "application/x-ndjson")
		e := json.NewEncoder(w)
		if err := rc.Flush(); err != nil { // the client waits for the header
			refuse(w, log, r.Pattern, err)
			return
		}
		err := s.Monitor(r.Context(), func(event Event) error {
			if err := e.Encode(event); err != nil {
				return err
			}
			return rc.Flush()
		})
		if err != nil && r.Context().Err() == nil {
			log.Debug("request", "route", r.Pattern, "err", err) // the client went away
		}
	})
}
