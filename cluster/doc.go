// Package cluster is what the gateways agree on: a replicated store of
// devices, gateways, settings and admissions, the table of who serves which
// device, and the decisions that follow from them.
//
// It knows nothing of networks. Two replicas meet through four methods
// (Digest, Delta, Merge, Changed) and bytes that somebody else carries; it does
// not know what a packet, a member list or a connection is.
//
// # The store
//
// The unit of replication is the cell: one field of one entity.
//
//	entity   kind + id              device/<key>, gateway/<node>, setting/<name> …
//	cell     field, value           the newest one of each field is stored
//	         life, rank, stamp      which of two cells wins
//	         author, seq            its dot: who wrote it as his how-manieth
//	         over                   the stamp that it overwrote
//
// Of two cells of one field the greater (life, rank, stamp, bytes) wins, so
// merging is commutative, associative and idempotent:
//
//   - life is the causal length of the entity in which the cell was written:
//     odd alive, even deleted. The cell of the empty field is the life itself;
//     a longer life drops all cells of shorter ones.
//   - rank orders fields that only ever grow, such as the causal length of a
//     disabling. It is zero for fields where the last writer wins.
//   - stamp is (hybrid logical clock, node, incarnation). A writer takes
//     max(its bounded clock, the overwritten stamp + 1): an edit that saw the
//     value wins over it whatever the clocks say.
//
// Every cell carries (author, seq), an author being a node in one incarnation,
// and an index by it answers what another replica misses: a version vector names
// per author the seq up to which a replica holds every cell or one that
// supersedes it. Superseded cells are not kept, which is sound by two rules. A
// delta is read from one snapshot and holds every stored cell above the
// receiver's vector, also those beyond the sender's own. The receiver moves its
// vector only with the last part of a complete delta, and only if its vector is
// not below the one that the delta was made for.
//
// An incarnation is random and new with each opening of the store, so no seq is
// used twice after a crash, a restored backup or a disk that was rolled back. A
// running process that meets a higher seq of its own incarnation (a cloned
// machine) takes a new one and offers its cells again.
//
// Whatever is acknowledged is on the disk. One committer carries requests out in
// memory and syncs many together, see pipeline.go; it stops writing while the disk
// still has room, see room.go. A store that is damaged is not opened and not
// changed, see verify.go.
//
// Cells of unknown kinds and fields are kept and forwarded as they came.
//
// # Backups
//
// A backup is a delta from nothing with a header, counts and a checksum, see
// backup.go. A cell of it up to the head that a store knows of its author
// changes nothing there: it is stored, superseded or collected. So an old backup
// brings back what is lost everywhere, and nothing that was deleted.
//
// # The audit
//
// A write whose context carries an Actor leaves a record of each entity that it
// changed, in the same transaction: an entity of kind "audit" with one cell that is never
// overwritten. The records of an author are numbered and each holds the hash of
// the one before, so that an altered one is named and a missing one
// missed. Old ones are deleted from the beginning of a chain like any entity; the
// hash of the last of them stays, as kind "audit-cut".
//
// # The sessions
//
// Sessions is soft state, in memory: per gateway and incarnation one column that
// only this gateway writes. The greatest (epoch, owner) owns a device.
//
// # The decisions
//
// Place, Heirs, Allocate and Address6 are pure functions of their arguments.
package cluster
