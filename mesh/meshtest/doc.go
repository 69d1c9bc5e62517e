// Package meshtest is a network in memory, for meshes in one process and on
// the clock of testing/synctest.
//
// It knows hosts, their addresses, and what gets from one to another: with
// latency and loss, through cuts, to hosts that were killed or vanished. It
// knows no more of the mesh than [mesh.Network] and [mesh.LAN], which it
// implements.
//
// It loses instead of blocking: a datagram for a full queue is dropped, as is
// what does not get through a cut. Streams keep their bytes, like TCP: they
// wait at a cut until it heals. A writer waits only when a window of 1 MiB is
// full.
package meshtest
