/* Source of ticker.bin: as --32 ticker.asm -o t.o && ld -m elf_i386 -Ttext 0x7c00 --oformat binary t.o -o ticker.bin

   Prints a counter on COM1 ten times a second or so and writes it to disk sector 64 + (counter mod 1024). */
.code16
.globl _start
_start:
  cli
  xor %ax,%ax
  mov %ax,%ds
  mov %ax,%es
  mov %ax,%ss
  mov $0x7c00,%sp
  mov %dl,drive
  sti
  mov $hello,%si
  call puts
loop:
  incl count
  /* "tick " and eight hexadecimal digits */
  mov $tick,%si
  call puts
  mov count,%ebx
  mov $8,%cx
1: rol $4,%ebx
  mov %bl,%al
  and $15,%al
  add $'0',%al
  cmp $'9',%al
  jbe 2f
  add $39,%al
2: call putc
  loop 1b
  mov $10,%al
  call putc
  /* the counter to its sector */
  mov count,%eax
  mov %eax,0x8000
  and $1023,%eax
  add $64,%eax
  mov %eax,lba
  mov $packet,%si
  mov drive,%dl
  mov $0x4300,%ax
  int $0x13
  jnc 4f
  mov $bad,%si
  call puts
4:
  /* two ticks of the BIOS clock: 110 ms */
  mov 0x46c,%eax
  add $2,%eax
3: hlt
  cmp %eax,0x46c
  jb 3b
  jmp loop
puts: lodsb
  test %al,%al
  jz 5f
  call putc
  jmp puts
5: ret
putc: mov $0x3f8,%dx
  out %al,%dx
  ret
hello: .asciz "ticker up\n"
tick: .asciz "tick "
bad: .asciz "disk error\n"
.balign 4
count: .long 0
drive: .byte 0
.balign 4
packet: .byte 16,0
  .word 1
  .word 0x8000, 0
lba: .quad 0
.org 510
.word 0xaa55
