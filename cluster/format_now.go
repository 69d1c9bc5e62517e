//go:build !nextversion

package cluster

// Format is the newest data format that this version understands.
const Format = 1
