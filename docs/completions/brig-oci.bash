# bash completion for brig-oci. Written by make doc.
_brig_oci() {
	local word=${COMP_WORDS[COMP_CWORD]} verb= words= root=() i
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		--root) root=(--root "${COMP_WORDS[++i]}") ;;
		checkpoint | create | delete | events | exec | features | kill | list | mounts | pause | ps | restore | resume | run | spec | start | state | update) verb=${COMP_WORDS[i]}; break ;;
		esac
	done
	case $verb in
	'') words="checkpoint create delete events exec features kill list mounts pause ps restore resume run spec start state update help --cgroup-manager --criu --debug --log --log-format --root --rootless --systemd-cgroup --version -v --help" ;;
	checkpoint) words="--auto-dedup --empty-ns --ext-unix-sk --file-locks --image-path --lazy-pages --leave-running --link-remap --manage-cgroups-mode --page-server --parent-path --pre-dump --shell-job --status-fd --tcp-established --tcp-skip-in-flight --work-path --help" ;;
	create) words="--bundle -b --config -f --console-socket --no-new-keyring --no-pivot --no-subreaper --pid-file --pidfd-socket --preserve-fds --help" ;;
	delete) words="--force -f --regex -r --help" ;;
	events) words="--interval --stats --help" ;;
	exec) words="--additional-gids -g --apparmor --cap -c --cgroup --console-socket --cwd --detach -d --env -e --ignore-paused --no-new-privs --pid-file --pidfd-socket --preserve-fds --process -p --process-label --tty -t --user -u --help" ;;
	features) words="--help" ;;
	kill) words="--all -a --help" ;;
	list) words="--format -f --quiet -q --help" ;;
	mounts) words="--help" ;;
	pause) words="--help" ;;
	ps) words="--format -f --help" ;;
	restore) words="--auto-dedup --bundle -b --config -f --console-socket --detach -d --empty-ns --ext-unix-sk --file-locks --image-path --lazy-pages --link-remap --lsm-mount-context --lsm-profile --manage-cgroups-mode --no-new-keyring --no-pivot --no-subreaper --pid-file --pidfd-socket --preserve-fds --shell-job --tcp-established --tcp-skip-in-flight --work-path --help" ;;
	resume) words="--help" ;;
	run) words="--bundle -b --config -f --console-socket --detach -d --keep --no-new-keyring --no-pivot --no-subreaper --pid-file --pidfd-socket --preserve-fds --help" ;;
	spec) words="--bundle -b --rootless --help" ;;
	start) words="--help" ;;
	state) words="--help" ;;
	update) words="--blkio-weight --cpu-burst --cpu-idle --cpu-period --cpu-quota --cpu-rt-period --cpu-rt-runtime --cpu-share --cpuset-cpus --cpuset-mems --kernel-memory --kernel-memory-tcp --l3-cache-schema --mem-bw-schema --memory --memory-reservation --memory-swap --pids-limit --resources -r --help" ;;
	esac
	case $verb in
	'' | create | run | restore | list | features | spec) ;;
	*) words+=" $(brig-oci "${root[@]}" list -q 2>/dev/null)" ;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}
complete -o default -F _brig_oci brig-oci
