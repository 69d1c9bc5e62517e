//go:build nextversion

package mesh

// protoMax is that of a version to come: tests of mixed versions are built with it.
const protoMax = 2
