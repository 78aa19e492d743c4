package oci

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// logTarget takes crun's forms of --log apart: file:PATH, syslog:NAME and journald:NAME beside the bare path that runc has. Of an
// unknown one it says so; who means a file of such a name writes ./ before it.
func logTarget(target string) (file string, service *logService, err error) {
	kind, rest, ok := strings.Cut(target, ":")
	if !ok || strings.Contains(kind, "/") {
		return target, nil, nil
	}
	switch kind {
	case "file":
		return rest, nil, nil
	case "syslog", "journald":
		service, err = openLogService(kind, rest)
		return "", service, err
	}
	return "", nil, fmt.Errorf("unknown log type %q: there are file, syslog and journald, and the bare path of a file", kind)
}

// logService is a daemon that takes datagrams: syslog(3)'s, or systemd's journal. A logger that is gone or slow never stops a
// container: what it does not take at once is lost, as with syslog(3).
type logService struct {
	fd      int
	journal bool
	name    string // of the one who speaks
}

// openLogService connects with the daemon, and fails where there is none: nobody would read the log.
func openLogService(kind, name string) (*logService, error) {
	socket := "/dev/log"
	if kind == "journald" {
		socket = "/run/systemd/journal/socket"
	}
	return dialLog(kind, name, socket)
}

func dialLog(kind, name, socket string) (s *logService, err error) {
	s = &logService{journal: kind == "journald", name: name}
	if name == "" {
		s.name = "brig-oci"
	}
	if s.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	if err := unix.Connect(s.fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		_ = unix.Close(s.fd)
		return nil, fmt.Errorf("%s: nobody takes messages at %s: %w", kind, socket, err)
	}
	return s, nil
}

// severities of syslog(3) by logrus's levels.
var severities = map[string]int{"error": 3, "warning": 4, "debug": 7}

// say sends one message.
func (s *logService) say(level, text string) {
	_, _ = s.Write(s.message(level, text))
}

// message is what the daemon reads: RFC 3164 without a time, which the daemon adds, in the facility LOG_USER; or the journal's native
// protocol, where a line break in a value would begin another field.
func (s *logService) message(level, text string) []byte {
	severity, ok := severities[level]
	if !ok {
		severity = 6
	}
	line := strings.NewReplacer("\n", "; ", "\x00", " ")
	name, text := line.Replace(s.name), line.Replace(text)
	if s.journal {
		return fmt.Appendf(nil, "MESSAGE=%s\nPRIORITY=%d\nSYSLOG_IDENTIFIER=%s\n", text, severity, name)
	}
	return fmt.Appendf(nil, "<%d>%s[%d]: %s", 1<<3|severity, name, os.Getpid(), text)
}

// Write sends one datagram.
func (s *logService) Write(datagram []byte) (int, error) {
	return len(datagram), unix.Send(s.fd, datagram, unix.MSG_NOSIGNAL)
}
