package uring

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unsafe"
)

// headerFacts are facts as the C compiler sees them in the installed <linux/io_uring.h>, with our value for each.
func headerFacts() map[string]uintptr {
	var e SQE
	var c CQE
	var p params
	var b buf
	var br bufReg
	var g getEventsArg
	var rr rsrcRegister
	return map[string]uintptr{
		"sizeof(struct io_uring_sqe)":                 unsafe.Sizeof(e),
		"offsetof(struct io_uring_sqe, opcode)":       unsafe.Offsetof(e.Opcode),
		"offsetof(struct io_uring_sqe, flags)":        unsafe.Offsetof(e.Flags),
		"offsetof(struct io_uring_sqe, ioprio)":       unsafe.Offsetof(e.IOPrio),
		"offsetof(struct io_uring_sqe, fd)":           unsafe.Offsetof(e.FD),
		"offsetof(struct io_uring_sqe, off)":          unsafe.Offsetof(e.Off),
		"offsetof(struct io_uring_sqe, addr)":         unsafe.Offsetof(e.Addr),
		"offsetof(struct io_uring_sqe, len)":          unsafe.Offsetof(e.Len),
		"offsetof(struct io_uring_sqe, rw_flags)":     unsafe.Offsetof(e.OpFlags),
		"offsetof(struct io_uring_sqe, user_data)":    unsafe.Offsetof(e.UserData),
		"offsetof(struct io_uring_sqe, buf_index)":    unsafe.Offsetof(e.BufIndex),
		"offsetof(struct io_uring_sqe, personality)":  unsafe.Offsetof(e.Personality),
		"offsetof(struct io_uring_sqe, splice_fd_in)": unsafe.Offsetof(e.SpliceFDIn),
		"offsetof(struct io_uring_sqe, addr3)":        unsafe.Offsetof(e.Addr3),
		"sizeof(struct io_uring_cqe)":                 unsafe.Sizeof(c),
		"offsetof(struct io_uring_cqe, res)":          unsafe.Offsetof(c.Res),
		"offsetof(struct io_uring_cqe, flags)":        unsafe.Offsetof(c.Flags),
		"sizeof(struct io_uring_params)":              unsafe.Sizeof(p),
		"offsetof(struct io_uring_params, features)":  unsafe.Offsetof(p.Features),
		"offsetof(struct io_uring_params, wq_fd)":     unsafe.Offsetof(p.WQFD),
		"offsetof(struct io_uring_params, sq_off)":    unsafe.Offsetof(p.SQOff),
		"offsetof(struct io_uring_params, cq_off)":    unsafe.Offsetof(p.CQOff),
		"offsetof(struct io_sqring_offsets, array)":   unsafe.Offsetof(p.SQOff.Array),
		"offsetof(struct io_cqring_offsets, cqes)":    unsafe.Offsetof(p.CQOff.CQEs),
		"sizeof(struct io_uring_buf)":                 unsafe.Sizeof(b),
		"offsetof(struct io_uring_buf, bid)":          unsafe.Offsetof(b.BID),
		"offsetof(struct io_uring_buf_ring, tail)":    unsafe.Offsetof(b.Resv),
		"sizeof(struct io_uring_buf_reg)":             unsafe.Sizeof(br),
		"offsetof(struct io_uring_buf_reg, bgid)":     unsafe.Offsetof(br.BGID),
		"sizeof(struct io_uring_getevents_arg)":       unsafe.Sizeof(g),
		"offsetof(struct io_uring_getevents_arg, ts)": unsafe.Offsetof(g.TS),
		"sizeof(struct io_uring_rsrc_register)":       unsafe.Sizeof(rr),
		"sizeof(struct io_uring_probe_op)":            unsafe.Sizeof(probeOp{}),
		"sizeof(struct io_uring_files_update)":        unsafe.Sizeof(filesUpdate{}),
		"sizeof(struct io_uring_rsrc_update)":         unsafe.Sizeof(ringFD{}),
		"offsetof(struct io_uring_rsrc_update, data)": unsafe.Offsetof(ringFD{}.FD),
		"sizeof(struct __kernel_timespec)":            unsafe.Sizeof(timespec{}),
		"IORING_OP_READ":                              uintptr(OpRead),
		"IORING_OP_WRITE":                             uintptr(OpWrite),
		"IORING_OP_READ_FIXED":                        uintptr(OpReadFixed),
		"IORING_OP_WRITE_FIXED":                       uintptr(OpWriteFixed),
		"IORING_OP_FSYNC":                             uintptr(OpFsync),
		"IORING_OP_POLL_ADD":                          uintptr(OpPollAdd),
		"IORING_OP_SENDMSG":                           uintptr(OpSendmsg),
		"IORING_OP_RECVMSG":                           uintptr(OpRecvmsg),
		"IORING_OP_TIMEOUT":                           uintptr(OpTimeout),
		"IORING_OP_TIMEOUT_REMOVE":                    uintptr(OpTimeoutRemove),
		"IORING_OP_ACCEPT":                            uintptr(OpAccept),
		"IORING_OP_ASYNC_CANCEL":                      uintptr(OpAsyncCancel),
		"IORING_OP_LINK_TIMEOUT":                      uintptr(OpLinkTimeout),
		"IORING_OP_CONNECT":                           uintptr(OpConnect),
		"IORING_OP_FALLOCATE":                         uintptr(OpFallocate),
		"IORING_OP_CLOSE":                             uintptr(OpClose),
		"IORING_OP_SEND":                              uintptr(OpSend),
		"IORING_OP_RECV":                              uintptr(OpRecv),
		"IORING_OP_SPLICE":                            uintptr(OpSplice),
		"IORING_OP_SHUTDOWN":                          uintptr(OpShutdown),
		"IORING_OP_MSG_RING":                          uintptr(OpMsgRing),
		"IORING_OP_SEND_ZC":                           uintptr(OpSendZC),
		"IORING_OP_SENDMSG_ZC":                        uintptr(OpSendmsgZC),
		"IOSQE_FIXED_FILE":                            uintptr(FixedFile),
		"IOSQE_IO_LINK":                               uintptr(IOLink),
		"IOSQE_IO_HARDLINK":                           uintptr(IOHardlink),
		"IOSQE_ASYNC":                                 uintptr(Async),
		"IOSQE_BUFFER_SELECT":                         uintptr(BufferSelect),
		"IOSQE_CQE_SKIP_SUCCESS":                      uintptr(CQESkipSuccess),
		"IORING_CQE_F_BUFFER":                         uintptr(CQEBuffer),
		"IORING_CQE_F_MORE":                           uintptr(CQEMore),
		"IORING_CQE_F_SOCK_NONEMPTY":                  uintptr(CQESockNonempty),
		"IORING_CQE_F_NOTIF":                          uintptr(CQENotif),
		"IORING_CQE_BUFFER_SHIFT":                     cqeBufferShift,
		"IORING_SETUP_SQPOLL":                         uintptr(SetupSQPoll),
		"IORING_SETUP_CQSIZE":                         uintptr(SetupCQSize),
		"IORING_SETUP_CLAMP":                          uintptr(SetupClamp),
		"IORING_SETUP_SUBMIT_ALL":                     uintptr(SetupSubmitAll),
		"IORING_SETUP_COOP_TASKRUN":                   uintptr(SetupCoopTaskrun),
		"IORING_SETUP_TASKRUN_FLAG":                   uintptr(SetupTaskrunFlag),
		"IORING_SETUP_SINGLE_ISSUER":                  uintptr(SetupSingleIssuer),
		"IORING_SETUP_DEFER_TASKRUN":                  uintptr(SetupDeferTaskrun),
		"IORING_FEAT_SINGLE_MMAP":                     uintptr(FeatSingleMmap),
		"IORING_FEAT_NODROP":                          uintptr(FeatNoDrop),
		"IORING_FEAT_EXT_ARG":                         uintptr(FeatExtArg),
		"IORING_FEAT_CQE_SKIP":                        uintptr(FeatCQESkip),
		"IORING_ENTER_GETEVENTS":                      enterGetEvents,
		"IORING_ENTER_SQ_WAKEUP":                      enterSQWakeup,
		"IORING_ENTER_EXT_ARG":                        enterExtArg,
		"IORING_ENTER_REGISTERED_RING":                enterRegisteredRing,
		"IORING_SQ_NEED_WAKEUP":                       sqNeedWakeup,
		"IORING_SQ_CQ_OVERFLOW":                       sqCQOverflow,
		"IORING_SQ_TASKRUN":                           sqTaskrun,
		"IORING_OFF_CQ_RING":                          offCQRing,
		"IORING_OFF_SQES":                             offSQEs,
		"IORING_REGISTER_BUFFERS":                     registerBuffers,
		"IORING_UNREGISTER_BUFFERS":                   unregisterBuffers,
		"IORING_REGISTER_FILES":                       registerFiles,
		"IORING_REGISTER_EVENTFD":                     registerEventfd,
		"IORING_REGISTER_FILES_UPDATE":                registerFilesUpdate,
		"IORING_REGISTER_PROBE":                       registerProbe,
		"IORING_REGISTER_FILES2":                      registerFiles2,
		"IORING_REGISTER_IOWQ_MAX_WORKERS":            registerIOWQMaxWorkers,
		"IORING_REGISTER_RING_FDS":                    registerRingFDs,
		"IORING_REGISTER_PBUF_RING":                   registerPbufRing,
		"IORING_UNREGISTER_PBUF_RING":                 unregisterPbufRing,
		"IORING_REGISTER_SYNC_CANCEL":                 registerSyncCancel,
		"IORING_FSYNC_DATASYNC":                       fsyncDatasync,
		"IORING_ACCEPT_MULTISHOT":                     acceptMultishot,
		"IORING_RECV_MULTISHOT":                       recvMultishot,
		"IORING_RECVSEND_POLL_FIRST":                  recvSendPollFirst,
		"IORING_RECVSEND_FIXED_BUF":                   recvSendFixedBuf,
		"IORING_POLL_ADD_MULTI":                       pollAddMulti,
		"IORING_ASYNC_CANCEL_ALL":                     cancelAll,
		"IORING_ASYNC_CANCEL_FD":                      cancelFD,
		"IORING_ASYNC_CANCEL_ANY":                     cancelAny,
		"IORING_TIMEOUT_ABS":                          timeoutAbs,
		"IORING_RSRC_REGISTER_SPARSE":                 rsrcRegisterSparse,
		"IORING_SEND_ZC_REPORT_USAGE":                 SendZCReportUsage,
		"IORING_NOTIF_USAGE_ZC_COPIED":                ZCCopied,
		"IO_URING_OP_SUPPORTED":                       opSupported,
	}
}

func TestStructuresMatchTheKernelHeader(t *testing.T) {
	cc, err := exec.LookPath("gcc")
	if err != nil {
		t.Fatal("gcc is needed to read <linux/io_uring.h>: apt-get install gcc linux-libc-dev")
	}
	facts := headerFacts()
	var src bytes.Buffer
	src.WriteString("#include <stddef.h>\n#include <stdio.h>\n#include <linux/io_uring.h>\nint main(void) {\n")
	for expr := range facts {
		fmt.Fprintf(&src, "printf(\"%%lu %%s\\n\", (unsigned long)(%s), %q);\n", expr, expr)
	}
	src.WriteString("return 0; }\n")
	dir := t.TempDir()
	file, bin := filepath.Join(dir, "facts.c"), filepath.Join(dir, "facts")
	if err := os.WriteFile(file, src.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(cc, "-o", bin, file).CombinedOutput(); err != nil {
		t.Fatalf("compile: %v\n%s", err, out)
	}
	out, err := exec.Command(bin).Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(out)) {
		value, expr, _ := strings.Cut(strings.TrimSpace(line), " ")
		want, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if got := facts[expr]; uint64(got) != want {
			t.Errorf("%s is %d in the header, %d here", expr, want, got)
		}
		seen++
	}
	if seen != len(facts) {
		t.Errorf("compared %d facts of %d", seen, len(facts))
	}
}
