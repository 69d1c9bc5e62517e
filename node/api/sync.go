package api

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Replication answers for how far the other gateways are with what was changed.
type Replication interface {
	SyncStatus(ctx context.Context) (Sync, error)
	// Resync compares all data with that of a gateway, by name or id, and exchanges what differs. It returns when that
	// is done.
	Resync(ctx context.Context, gateway string) (Resynced, error)
}

// Sync is how far the others are, seen from one gateway.
type Sync struct {
	Gateway string     `json:"gateway"` // name of the gateway that answers
	Peers   []SyncPeer `json:"peers"`   // all other admitted gateways, by name
	Alarms  []Alarm    `json:"alarms"`  // oldest first; those that are solved for a day
	// Deletions is how many are remembered until every admitted gateway has them.
	Deletions int `json:"deletions"`
}

// SyncPeer is how far one other gateway is.
type SyncPeer struct {
	Name    string     `json:"name"` // "" if it never said one
	ID      string     `json:"id"`
	Linked  bool       `json:"linked"`
	InStep  bool       `json:"in_step"` // it has what this gateway has
	Lacks   int        `json:"lacks"`   // cells of this gateway that it lacks, up to 10,000, as it said last
	Ahead   uint64     `json:"ahead"`   // its writes, or those it has, that this gateway lacks
	Differs bool       `json:"differs"` // neither lacks anything, and they have other data all the same
	Since   time.Time  `json:"since"`   // of in_step
	Heard   *time.Time `json:"heard"`   // its last word about what it has; nil: none since this gateway began
	Failed  uint64     `json:"failed"`  // exchanges since it is linked
}

// Kinds of an alarm.
const (
	AlarmLag        = "lag"        // changes do not reach a gateway for too long
	AlarmPush       = "push"       // it does not take them
	AlarmDivergence = "divergence" // it knows the same changes and has other data
)

// Alarm is something that an administrator should know.
type Alarm struct {
	Kind    string     `json:"kind"`
	Gateway string     `json:"gateway"` // name of the one it is about
	ID      string     `json:"id"`
	Text    string     `json:"text"`
	Since   time.Time  `json:"since"`
	Solved  *time.Time `json:"solved"` // nil: it stands
}

// Resynced says what a comparison came to.
type Resynced struct {
	Buckets  int `json:"buckets"`  // of 256 that differed
	Received int `json:"received"` // entities that changed here
	Sent     int `json:"sent"`     // and there
}

// SyncStatus implements [Replication].
func (c *Client) SyncStatus(ctx context.Context) (Sync, error) {
	return call[Sync](ctx, c, http.MethodGet, "/v1/sync", nil)
}

// Resync implements [Replication].
func (c *Client) Resync(ctx context.Context, gateway string) (Resynced, error) {
	return call[Resynced](ctx, c, http.MethodPost, "/v1/sync/"+url.PathEscape(gateway), nil)
}
