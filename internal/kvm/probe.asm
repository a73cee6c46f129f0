/* Source of probe.bin: as --64 probe.s -o p.o && ld -m elf_x86_64 -Ttext 0x7c00 --oformat binary p.o -o probe.bin

   Enters long mode and takes 200 page faults, as Linux's boot stub does while it unpacks the kernel, then leaves by the debug exit. */
.code16
.globl _start
_start:
  cli
  xor %ax,%ax
  mov %ax,%ds
  mov %ax,%es
  mov %ax,%ss
  mov $0x7c00,%sp
  mov $0x1000,%di
  mov $0x4000/2,%cx
  cld
  rep stosw
  movw $0x2003,0x1000   /* one page map level 4, */
  movw $0x3003,0x2000   /* one directory pointer table, */
  movw $0x0083,0x3000   /* one 2 MiB page mapped */
  lgdt gdtr
  mov %cr4,%eax
  or $0x20,%eax
  mov %eax,%cr4
  mov $0x1000,%eax
  mov %eax,%cr3
  mov $0xc0000080,%ecx
  rdmsr
  or $0x100,%eax
  wrmsr
  mov %cr0,%eax
  or $0x80000001,%eax
  mov %eax,%cr0
  ljmp $8,$long
.code64
long:
  mov $0x10,%ax
  mov %ax,%ds
  mov %ax,%ss
  mov $0x40e0,%edi      /* gate 14 of the interrupt table at 0x4000 */
  mov $fault,%eax
  mov %ax,(%rdi)
  movw $8,2(%rdi)
  movw $0x8e00,4(%rdi)
  shr $16,%eax
  mov %ax,6(%rdi)
  lidt idtr
  mov $200,%ecx
1: mov %rcx,0x200000    /* faults; the handler maps it */
  cmp %rcx,0x200000
  jne bad
  movq $0,0x3008        /* unmap it again */
  invlpg 0x200000
  dec %ecx
  jnz 1b
  mov $0x10,%al
  jmp leave
bad: mov $0x20,%al
leave: mov $0xf4,%dx
  out %al,%dx
2: hlt
  jmp 2b
fault: movq $0x200083,0x3008
  add $8,%rsp
  iretq
.balign 8
gdt: .quad 0, 0x00af9a000000ffff, 0x00af92000000ffff
gdtr: .word 23
 .long gdt
idtr: .word 0xfff
 .quad 0x4000
.org 510
.word 0xaa55
