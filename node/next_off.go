//go:build !nextversion

package node

import "context"

// runNext is what a version to come does more than this one; see next_on.go.
func (n *Node) runNext(context.Context) error { return nil }
