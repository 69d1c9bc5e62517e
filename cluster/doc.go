// Package cluster is what the gateways agree on: a replicated store of
// devices, gateways, settings, users and admissions, the table of who serves which
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
//     disabling. Where the last writer wins it is zero until somebody overwrites a
//     cell of the far future.
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
// still has room, see room.go. One whose gateway is leaving is sealed, see seal.go: it takes no changes. A store that
// is damaged is not opened and not changed, see verify.go.
//
// Cells of unknown kinds and fields are kept and forwarded as they came. A kind that a later data format
// brings is not written before all admitted gateways say that they understand it, see format.go.
//
// # What is lost, and what is not shown
//
// A cell names in over the newest stamp of each node whose writes of the field its writer
// had seen, that is all that it follows from; the life names those of all fields. So when
// two cells of one field meet, the greater says whether it had seen the lesser. If not, the
// lesser is listed as a conflict, in the same transaction, as an entity of its own that
// is named by the lost cell: all replicas list the same. The stamp of the one overwritten cell
// would not tell it: after two writes on one side of a split it is above the other side's
// write, though nobody there had seen that. A conflict ends by an edit that has seen both. At
// most 1000 are listed.
//
// A cell stamped more than a day ahead of the wall clock is stored, counted and forwarded,
// but not shown before its time: what is shown without it is held beside, on this disk only. An
// edit here wins over it by its rank, not by its stamp, so that it is not one of the far
// future too. Conflicts lists what is not shown.
//
// # What is counted
//
// The uses of a token are spent by the gateway that minted it, on the disk on which it was
// minted, once this gateway has caught up with a peer or has none. A disk that is sent a write of its own
// gateway that it never made was rolled back, and spends no more of what it minted. Serving says
// which members are within max-instances.
//
// # Users
//
// A user is an administrator. What says whether a password is his is text to the store, never told in a
// conflict or the audit. Two passwords given apart are a conflict; a removal stands against both. One that was given
// without knowing of all evictions is told so: an evicted gateway may have had that text.
//
// # Forgetting deletions
//
// A deleted entity is a marker: its even life. It goes when every member holds it,
// by what the members say and not by time. Now and then each member that holds a
// marker that it has not acknowledged writes its vector into a cell of its own, of
// kind have. The least of these vectors is what all hold. A replica drops the
// markers below it as soon as it knows of all acknowledgements, and only if its own
// vector covers them: then it knows also whom their writers had admitted.
//
// Nothing comes back, because:
//
//   - A complete delta leaves the receiver with all that the sender had. So who
//     covers a write has, or has the better of, all that its writer had then.
//   - A cell that our vector covers and that does not stand here was superseded or
//     forgotten. It is not taken in, however late it comes; heads are kept also of
//     authors of whom nothing stands, and a new replica is told them.
//   - A marker is not acknowledged before our clock is beyond its life, so every new
//     life is above all markers that were ever forgotten.
//
// A member that holds up a marker for longer than the horizon, was evicted or has left, is
// declared absent in the acknowledgements, and not waited for until it answers that
// very word. A replica that finds itself absent, or does not know its own
// acknowledgement any more (its disk was rolled back), or is told that another one
// came in the place of one that it had not seen, or holds a backup, does not
// move its vector: it asks for all there is, by an empty digest, drops what the
// sender's vector covers and the sender does not have, and keeps what it wrote
// itself. That is merged as it is, since what it saw and did not see is in its
// cells. Edits of an entity that is gone are markers, too: a life that they name and
// that does not stand is over.
//
// Replicas that have forgotten and those that are about to differ for one exchange
// of acknowledgements.
//
// # Keys that are replaced
//
// A key of the cluster is an entity of its own, named by a hash of its secret and ordered by
// a generation. It is written once; a cell of a higher rank takes its secret away when it holds
// no more. What a member accepts and uses it says itself, in a cell that nobody else writes.
// NextTurn says what follows from that: any member does it, and two keys made on two sides of a split
// are two entities, of which all come to use the same. Members that are absent are waited for before
// an old key goes, unless they were named, or the key is in wrong hands; who missed keys is told those
// that hold by the state itself, whose way there needs none of them.
//
// A key names the evictions that its maker knew. One that names all that are known here covers them: no evicted
// gateway was told it. Such keys come first whatever their generation, and where one of them is a cluster key no other
// holds. Where none is, as after two sides of a split evicted one each, a member makes one.
//
// # Evictions
//
// An eviction is for good, and says up to where the writes of the evicted one were known. What others took from it
// without knowing stays, for what that overwrote is gone, and is listed. An admission, an eviction, a key or a
// password among that counts nowhere until another gateway writes it again. Nor does what a gateway ever wrote whose
// own admission does not stand; it begins to count when a member admits that gateway. An admission stands if whoever
// wrote it may have, up to the gateway that admitted itself: all who evict say who had, and one that does later, out of
// a backup, names the evictions that it knew.
//
// Each who evicts has a field of its own, which is taken from nobody else; they are weighed in the order of their
// stamps, so that who is evicted evicts nobody in return, as far as the clocks are right. Of two that evicted each
// other on two sides of a split that one stays whose eviction has the earlier stamp: a slow clock may win, and one that
// is set back on purpose does. Nothing else in the store tells the two apart that could not be chosen as well; who was
// admitted first does not, for the first gateway could then be evicted by nobody. The other is a member no more, also
// when the one that stayed is evicted later: it is reset and joins anew.
//
// Cells are not signed: a member can write in another's name as long as it is one. So nothing may be taken from an
// evicted one itself, and nothing be told to it, which is for those to see to who carry the bytes.
//
// # What should not happen
//
// Two replicas with one vector and different prints are broken. Buckets says where,
// by what stands on the disk; Page and Mend bring to each what it lacks.
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
// Place, Spare, Heirs, Serving, Allocate, Address6 and Older are pure functions of their arguments. A standby gateway
// gets devices, by Place and by Heirs, only where no active one has room.
package cluster
