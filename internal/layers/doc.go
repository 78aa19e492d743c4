// Package layers merges the tar archives of an image's layers, the lowest first, into one tree of [erofs.Inode].
//
// Nothing is unpacked: names are resolved in the tree in memory and bytes go straight into the EROFS image, so no entry can touch
// the host, whatever it is called. What comes out is, entry by entry, what umoci unpacks as root; where the two differ, the entry
// is refused here with an [EntryError], or what umoci leaves to chance is fixed:
//
//   - A name is cleaned of "//", "." and inner ".."; a leading "/" is dropped. A name that climbs above the root is refused.
//   - Folders on the way to a name may be symbolic links of this tree (usr-merged images have lib/x under lib -> usr/lib); they
//     are followed inside the tree, as chroot(2) would, and ".." of the root is the root.
//   - A missing folder on the way is made: mode 0755, owner 0:0, time 0. (umoci: the same, but the time of unpacking.)
//   - A folder over a folder keeps the children and takes the new attributes; anything else replaces what was there. So a later
//     entry of one name counts, within a layer too. A folder's time is its own entry's: what is put into it does not change it.
//   - A hard link leads to what has the name at that moment, of this or a lower layer; a symbolic link is not followed. To
//     nothing, to a folder or to itself is refused.
//   - .wh.NAME hides NAME of lower layers, .wh..wh..opq everything lower layers have in its folder; neither hides anything of
//     its own layer, in whatever order they come. Other .wh..wh.* are AUFS's own and are left out.
//   - Extended attributes come from PAX records SCHILY.xattr.NAME alone, as with every engine (LIBARCHIVE.xattr.NAME is a second
//     copy that bsdtar writes). Left out: see [KeepXattr].
//   - Numbers of owners reach to 2^32-2, set-user-ID bits and file capabilities stay: the mount and the sandbox make them harmless.
//   - Devices stay as nodes, which the image's nodev mount makes dead, or are refused: [DevicePolicy].
//   - Data that a higher entry replaces or hides is given back to the disk as soon as its last name is gone.
//
// [Limits] bound what a stranger's layers can cost. The same layers give the same tree, and the same bytes.
//
// Its place on the road: floor 1, on internal/erofs; internal/image/build calls it.
package layers
