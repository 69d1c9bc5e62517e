package api

import "time"

// Twin is another cluster with the same key, begun apart, on the LAN of the
// gateway that answers.
type Twin struct {
	Cluster string    `json:"cluster"` // beginning of its id
	Begun   time.Time `json:"begun"`
	Gateway string    `json:"gateway"` // address of the member that was heard last
	Older   bool      `json:"older"`   // it is older than ours
}
