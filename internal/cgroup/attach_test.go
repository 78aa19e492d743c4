package cgroup

import (
	"os"
	"syscall"
)

func sysProcAttr(into *os.File) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(into.Fd())}
}
