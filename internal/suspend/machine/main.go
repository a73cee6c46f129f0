// Program machine is the first process of the virtual machine in which package suspend is tested: it sleeps, and says on the console what came of it.
package main

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/suspend"
)

func main() {
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		fmt.Println("machine: no /sys:", err)
	}
	fmt.Println("machine: sleeps")
	if err := suspend.Memory(suspend.StateFile); err != nil {
		fmt.Println("machine: refused:", err)
	} else {
		fmt.Println("machine: woken")
	}
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("machine: does not power off:", err)
	}
}
