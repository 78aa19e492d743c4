package selinux

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Refusal says why the policy let no process of this one's label become the other at an execve that failed; "" where the policy is not
// the reason. The kernel gives EPERM where no_new_privs is set and the policy does not allow the change all the same, else EACCES
// (check_nnp_nosuid and selinux_bprm_creds_for_exec in security/selinux/hooks.c).
func Refusal(label string, noNewPrivs bool, err error) string {
	if label == "" {
		return ""
	}
	text, rerr := os.ReadFile("/proc/self/attr/current")
	if rerr != nil {
		return ""
	}
	own := strings.TrimRight(string(text), "\n\x00")
	switch {
	case errors.Is(err, unix.EPERM) && noNewPrivs && !allowed(own, label, "process2", "nnp_transition"):
		return fmt.Sprintf("SELinux's policy does not let %s become %s where no new privileges are to be had (process.noNewPrivileges; process2 nnp_transition)", own, label)
	case errors.Is(err, unix.EACCES) && !allowed(own, label, "process", "transition"):
		return fmt.Sprintf("SELinux's policy does not let %s become %s (process transition)", own, label)
	}
	return ""
}

func allowed(subject, object, class, permission string) bool {
	ok, err := Allowed(subject, object, class, permission)
	return ok || err != nil
}
