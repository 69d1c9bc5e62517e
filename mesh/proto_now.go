//go:build !nextversion

package mesh

const protoMax = 1
