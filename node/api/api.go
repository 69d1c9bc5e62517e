package api

import (
	"context"
	"time"
)

// Service is everything that can be asked of a gateway.
type Service interface {
	Clusters
	Gateways
	Administration
	Monitors
	Doctors
	Devices
	Conflicts
	Addresses
	Replication
	Backups
	Configs
	Audits
	Keys
	Evictions
	Tokens
	Settings
	Resets
	Users
	Claims
}

// Clusters answers for the cluster as one thing.
type Clusters interface {
	Status(ctx context.Context) (Status, error)
	// ClusterKey returns the secret with which further gateways join.
	ClusterKey(ctx context.Context) (ClusterKey, error)
}

// Gateways answers for the gateways of the cluster.
type Gateways interface {
	ListGateways(ctx context.Context) ([]Gateway, error)
	// Drain has the gateway that is asked give its devices to others and take
	// no new ones, or take them again. It returns when that is done.
	Drain(ctx context.Context, d Drain) (Drained, error)
}

// Devices answers for the enrolled devices. A ref is a name, a public key, or
// the beginning of one that names a single device.
type Devices interface {
	ListDevices(ctx context.Context) ([]Device, error)
	ShowDevice(ctx context.Context, ref string) (Device, error)
	AddDevice(ctx context.Context, d NewDevice) (Enrolment, error)
	ChangeDevice(ctx context.Context, ref string, c DeviceChange) (Device, error)
	RekeyDevice(ctx context.Context, ref string, k NewKey) (Enrolment, error)
	RemoveDevice(ctx context.Context, ref string) error
}

// Status is the cluster seen from one gateway.
type Status struct {
	Cluster   string `json:"cluster"`   // cluster id
	Gateway   string `json:"gateway"`   // name of the gateway that answers
	ID        string `json:"id"`        // its id
	Ready     bool   `json:"ready"`     // takes devices
	NotReady  string `json:"not_ready"` // why it takes none, if that is known; "" else
	Gateways  int    `json:"gateways"`  // alive, this one included
	Devices   int    `json:"devices"`   // enrolled
	Sessions  int    `json:"sessions"`  // connected devices, cluster-wide
	Dataplane string `json:"dataplane"` // "tun" or "userspace"
	PublicKey string `json:"public_key"`
	Pool      string `json:"pool"`
	Version   string `json:"version"`
	Role      string `json:"role"`     // of the gateway that answers
	Protocol  string `json:"protocol"` // versions that it speaks: "1", "1-2"
	Format    int    `json:"format"`   // newest data format that it understands
	// Older names the gateways that do not understand that format: nothing is written in it before they are updated.
	Older []string `json:"older"`
	// AuthFailures counts the packets of this gateway's sessions that did not
	// authenticate since it started.
	AuthFailures uint64 `json:"auth_failures"`
	Disk         Disk   `json:"disk"`
	Twins        []Twin `json:"twins,omitempty"`
}

// Disk is the volume of a gateway's data.
type Disk struct {
	ReadOnly bool   `json:"read_only"` // it is nearly full: changes are refused, devices are served
	Free     uint64 `json:"free"`      // bytes; 0 if unknown
	Needed   uint64 `json:"needed"`    // free bytes from which changes are taken again
}

// ClusterKey is the answer to a request for the cluster's secret.
type ClusterKey struct {
	Key string `json:"key"`
}

// States of a gateway.
const (
	Alive  = "alive"
	Failed = "failed"
	Left   = "left"
)

// Gateway is one gateway of the cluster.
type Gateway struct {
	Name     string    `json:"name"`
	ID       string    `json:"id"`
	State    string    `json:"state"` // Alive, Failed or Left
	Serving  bool      `json:"serving"`
	Draining bool      `json:"draining"`
	ReadOnly bool      `json:"read_only"` // its disk is nearly full: it takes no changes
	Sessions int       `json:"sessions"`
	Capacity int       `json:"capacity"`
	Public   string    `json:"public"` // host:port that devices use
	Mesh     string    `json:"mesh"`   // host:port that gateways use
	Version  string    `json:"version"`
	OS       string    `json:"os"`
	Arch     string    `json:"arch"`
	Hostname string    `json:"hostname"`
	Started  time.Time `json:"started"`
	Role     string    `json:"role"` // Active or Standby

	Addresses  []string   `json:"addresses"`   // at which other gateways may find it
	AdmittedBy string     `json:"admitted_by"` // name of the gateway; "" when it was not admitted, or not any more
	Admitted   *time.Time `json:"admitted"`
	// Since is how long it has been in its state, as this gateway sees it; of this gateway itself, since it started.
	Since       *time.Time `json:"since"`
	RoundTrip   *float64   `json:"round_trip_ms"`   // nil: it is this gateway, or not linked
	ClockOffset *float64   `json:"clock_offset_ms"` // how far its clock is ahead of this gateway's; nil: not known
	Protocol    uint       `json:"protocol"`        // that this gateway and it talk; 0: they are not linked
	Format      int        `json:"format"`          // newest data format that it understands
}

// Drain is what a gateway is to do with its devices.
type Drain struct {
	Undo bool `json:"undo"` // take devices again
}

// Drained says what became of the devices of a gateway.
type Drained struct {
	Moved int `json:"moved"` // heard by other gateways
	Left  int `json:"left"`  // served here, or not heard by their new gateway yet
}

// Device is one enrolled device and where it is connected.
type Device struct {
	Name          string     `json:"name"`
	ID            string     `json:"id"` // public key
	Addresses     []string   `json:"addresses"`
	Gateway       string     `json:"gateway"`        // name of its gateway; "" when not connected
	Endpoint      string     `json:"endpoint"`       // "" when not connected
	LastHandshake *time.Time `json:"last_handshake"` // nil: none that a running gateway knows of
	RxBytes       uint64     `json:"rx_bytes"`       // received from the device
	TxBytes       uint64     `json:"tx_bytes"`       // sent to the device
	Enabled       bool       `json:"enabled"`
}

// NewDevice enrols a device.
type NewDevice struct {
	Name      string `json:"name"`
	PublicKey string `json:"public_key"` // base64, made by whoever asks: the private key never comes here
}

// NewKey replaces the key of a device.
type NewKey struct {
	PublicKey string `json:"public_key"`
}

// DeviceChange changes what is not nil.
type DeviceChange struct {
	Name    *string `json:"name,omitempty"`
	Enabled *bool   `json:"enabled,omitempty"`
}

// Enrolment is what a device needs to know beside its own private key.
type Enrolment struct {
	Device    Device `json:"device"`
	PublicKey string `json:"public_key"` // the cluster's
	Endpoint  string `json:"endpoint"`   // host:port of the gateway that was asked
	Keepalive int    `json:"keepalive"`  // seconds
}
