// Package global is the global tier of state: the authoritative values, which all hosts
// share. It stores, it does not cache: replicas in memory, mappings into Faaslets and
// local locks are the local tier's.
//
// # Model
//
// A [Key] is a tenant and a name. Under a key there may be a value, an append list,
// published versions of the value, and a lock; the value, its published versions and the
// list are forgotten together by Delete. Keys are structured: no two different keys meet,
// whatever bytes their parts have, and names are compared byte by byte (two Unicode
// spellings of one text are two names).
//
// A value is bytes, in chunks of [ChunkBytes] or a multiple of it. It has a version, which grows with each
// change that a reader can see, and is never used twice for a key, even if the value is
// deleted and made again, so that a version is a good ETag.
//
//   - Read is a snapshot: all it returns is of one version, which it names, however many
//     chunks that is. Two Reads are two snapshots; compare their versions.
//   - Write replaces the value as a whole. A Read sees the old value or the new one,
//     never a mixture. An interrupted Write has changed nothing.
//   - Patch and Merge change ranges, and are atomic for each chunk: a chunk has all of
//     the change that falls on it or none. They never touch another byte, so two hosts
//     that patch different bytes of one chunk both keep theirs. One that races with a
//     Write is either before it, and overwritten, or after it, and applied to the new
//     value; what was acknowledged is not lost.
//   - Append adds an element to the key's list, which is read and cleared apart from the
//     value.
//   - Publish gives the present value a name that lasts: an immutable version. It copies
//     no bytes. The latest [PublishedKept] are kept.
//   - Lock gives a lease with a fencing token. Tokens of a key grow, and are never given
//     out twice. A change that names a token ([Condition].Fence) is refused with
//     [ErrFenced] once the lease is unlocked or a later token of the key has been given out, to a
//     writer or a reader; that is decided at the very point at which the change would
//     become visible.
//
// All operations on one key are linearizable, Patch and Merge for each chunk: each takes
// effect at one point between its call and its return. An operation whose result is
// ErrUnavailable, or that its context ended, may have taken effect, may still do so a
// little later, or never will; nothing but a look at the value tells.
//
// # Durability
//
// Embedded store: what was acknowledged is on the disk (fsync) and survives the death of
// the process and of the machine.
//
// Redis: what was acknowledged is in Redis's memory, and is as durable as Redis makes it.
// With "appendonly yes" and "appendfsync always" it survives the death of Redis and of
// the machine. With "appendfsync everysec" (Redis's default once appendonly is on) the
// last second or two may be lost with the machine, though not with a killed process;
// without appendonly, all since the last dump. A failover to a replica may lose what had
// not been replicated. After such a loss each value is still one that it once had, whole
// where it is in one piece; a value of several chunks in a Redis Cluster, whose nodes
// lost different seconds, may lack chunks and is then refused with ErrDamaged, never
// served as a mixture. Versions and tokens still grow after it, because they follow
// Redis's clock; a lease that was lost with it is found lost at its next renewal, and its
// token is refused. Redis must not evict keys (maxmemory-policy noeviction, the default).
//
// # Storage
//
// Writers never overwrite what a reader may be using. A Write stores its chunks under a
// new generation, then switches the key's manifest to it in one step; a reader that loses
// its chunks to that starts again with the new manifest. Chunks that no manifest names
// are deleted soon after, and those of a writer that crashed by Sweep: a writer registers
// its generation with the manifest before it stores a chunk, and one whose registration
// ran out can no longer switch.
//
// In Redis, 7.0 or later, all keys of a tenant but the second and later chunks of its values are in one
// hash slot, so that manifest, conditions, usage and listing change in one script; those
// chunks are spread over all nodes by generation and index. They are changed by copying:
// a patch makes a new chunk of the old one at the node, sending only the bytes that
// change, and the manifest then goes over to it if it still names the old one.
//
// Of ours this package knows boltfile only. Lock order: none of its locks is held while
// another is taken.
package global
