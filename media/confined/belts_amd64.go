package confined

import "golang.org/x/sys/unix"

var ofArch = []int{unix.SYS_EPOLL_WAIT}
