package testenv

import "brig/internal/mac/selinux"

// Share gives a folder the label that every sandbox may use, where the kernel has SELinux on, as -v FOLDER:/data:z does. What is made
// in it later gets that label too.
func Share(dir string) error {
	if SELinux.Missing() != "" {
		return nil
	}
	return selinux.Relabel(dir, selinux.Shared)
}
