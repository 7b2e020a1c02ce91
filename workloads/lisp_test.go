package workloads

import (
	"strings"
	"testing"
	"time"

	"github.com/faasm-go/faasm/internal/call"
)

// Initialisation leaves about 32 MiB, in a memory that the default limit allows, the same
// each time, and tells the uploader what they hold.
func TestLisp_initialisation(t *testing.T) {
	rt := newRuntime(t)
	_, first, r := initialise(t, rt, "lisp", time.Minute)
	if first == nil {
		t.Fatalf("initialise: %v: %+v, printed %q", r.Outcome, r.Failure, r.Output)
	}
	if got, want := string(r.Output), "lisp: 78498 primes, factors, totients and divisor sums to 1000000, "+
		"500000 Collatz sequences and 60000 names of numbers, 35328688 bytes in all\n"; got != want {
		t.Errorf("printed %q; want %q", got, want)
	}
	if got := first.Size(); got < 31<<20 || got > 35<<20 {
		t.Errorf("the snapshot has %d bytes; want about 32 MiB", got)
	}
	_, second, _ := initialise(t, rt, "lisp", time.Minute)
	if got, want := second.Hash(), first.Hash(); got != want {
		t.Errorf("another initialisation makes the snapshot %s; the first made %s", got, want)
	}
}

func TestLisp_programs(t *testing.T) {
	code := ready(t, "lisp")
	nested := func(open, middle, closing string, n int) string {
		return strings.Repeat(open, n) + middle + strings.Repeat(closing, n)
	}
	const downwards = "(define (down n) (if (= n 0) 0 (+ 1 (down (- n 1))))) "
	const nest = "(define (nest n x) (if (= n 0) x (nest (- n 1) (list x)))) "
	const garbage = "(define (garbage n) (when (> n 0) (make-vector 1000 'rubbish) (garbage (- n 1)))) "
	for _, tt := range []struct {
		name, program string
		output        string
		problem       string // after "error: ", with return code 1
	}{
		{"unclosed list", "(display 1)\n(car\n (f x)", "1", "line 2: '(' is never closed"},
		{"closed too often", "1\n)", "", "line 2: ')' closes nothing"},
		{"unclosed string", "\n\"abc", "", "line 2: a string is never closed"},
		{"unclosed escape", `"abc\`, "", "line 1: a string is never closed"},
		{"lone dot", ".", "", "line 1: a dot stands alone"},
		{"dot first", "'(. 1)", "", "line 1: a dot or quote has nothing to belong to"},
		{"quote of nothing", "(list ')", "", "line 1: a dot or quote has nothing to belong to"},
		{"quote at the end", "1 '", "", "line 1: a quote has nothing to belong to"},
		{"large number", "1152921504606846976", "", "line 1: an integer has more than 61 bits"},
		{"zero byte", "\x00", "", "unknown symbol: \x00"},
		{"half a megabyte", strings.Repeat("(list)", 1<<17), "", "the program is longer than 256 KiB"},
		{"parentheses", strings.Repeat("(", 200_000), "", "the program is too long or too deep"},
		{"deep program", nested("(list ", "1", ")", 600), "", "the program is nested too deeply"},
		{"deep lambdas", nested("((lambda () ", "1", "))", 300), "", "the program is nested too deeply"},
		{"endless macro", "(define-macro (m) '(list (m))) (m)", "", "the program is nested too deeply"},
		{"endless eval in a macro", "(define-macro (m) (eval '(m))) (m)", "", "the program is nested too deeply, in m"},
		{"unknown symbol", "(+ 1 foo)", "", "unknown symbol: foo"},
		{"unknown symbol set", "(set! foo 1)", "", "unknown symbol: foo"},
		{"wrong type", "(define (f x) (+ 1 (car x))) (f 5)", "", "not a pair: 5, in car, in f"},
		{"no function", "((list 1 2) 3)", "", "not a function: (1 2)"},
		{"arguments", "(define (f x) x) (f 1 2)", "", "#<function f> does not take 2 arguments"},
		{"arguments of a builtin", "(car)", "", "#<builtin car> does not take 0 arguments"},
		{"malformed", "(if)", "", "malformed: (if)"},
		{"no parameter", "(lambda (x 1) x)", "", "not a parameter: 1"},
		{"no binding", "(let ((x)) x)", "", "not a binding: (x)"},
		{"definition in an expression", "(define (f) (list (define x 1)))", "", "a definition stands neither outermost nor directly in a body: (define x 1)"},
		{"index", "(vector-ref (vector 1 2) 2)", "", "not an index of the vector: 2, in vector-ref"},
		{"index below", "(vector-set! primes -1 0)", "", "not an index of the vector: -1, in vector-set!"},
		{"substring", `(substring "abc" 2 1)`, "", "not an index of the string: 2, in substring"},
		{"overflow", "(* 1073741824 1073741824)", "", "an integer has more than 61 bits, in *"},
		{"division by zero", "(quotient 1 0)", "", "division by zero: 1, in quotient"},
		{"improper arguments", "(apply + 1 '(2 . 3))", "", "the last argument of apply is not a list: 3"},
		{"program's own error", `(define (f) (error "no luck:" 1 "two")) (f)`, "", `no luck: 1 "two", in f`},
		{"deep recursion", downwards + "(down 1000000)", "", "the recursion is too deep, in down"},
		{"many arguments", "(apply + (range 1 500000))", "", "too many arguments"},
		{"endless list", "(define (grow l) (grow (cons 1 l))) (grow '())", "", "out of memory, in grow"},
		{"large vector", "(make-vector 3000000)", "", "out of memory, in make-vector"},
		{"huge vector", "(make-vector 1000000000000000)", "", "out of memory, in make-vector"},
		{"doubled string", `(define (f s) (f (string-append s s))) (f "x")`, "", "out of memory, in string-append, in f"},
		{"deep data", nest + "(nest 400000 1) (live-bytes)", "", "out of memory: the data is nested too deeply, in nest"},
		{"deep comparison", nest + "(equal? (nest 1000 1) (nest 1000 1))", "", "nested too deeply, in equal?"},

		{"nothing", " ; only a comment", "", ""},
		{"value", "'(1 -2 \"a\\n\\\"b\" sym #t () #(1 (2)) (a . b))", "(1 -2 \"a\\n\\\"b\" sym #t () #(1 (2)) (a . b))\n", ""},
		{"output and value", `(display "a " 1) (display "b") (write "c") 'value`, "a 1b\"c\"\nvalue\n", ""},
		{"definition has no value", "(define x 1)", "", ""},
		{"deep output", nest + "(nest 300 1)", nested("(", "...", ")", 201) + "\n", ""},
		{"functions", "(define (f) 1) (list f car (lambda () 1))", "(#<function f> #<builtin car> #<function>)\n", ""},
		{"fib", "(define (fib n) (if (< n 2) n (+ (fib (- n 1)) (fib (- n 2))))) (fib 24)", "46368\n", ""},
		{"loop of a million", "(define (loop n sum) (if (= n 0) sum (loop (- n 1) (+ sum n)))) (loop 1000000 0)", "500000500000\n", ""},
		{"mutual tail calls", "(letrec ((even (lambda (n) (or (= n 0) (odd (- n 1))))) (odd (lambda (n) (and (not (= n 0)) (even (- n 1)))))) (even 200001))", "#f\n", ""},
		{"deep enough recursion", downwards + "(down 40000)", "40000\n", ""},
		{"closures", "(define (counter) (let ((n 0)) (lambda () (set! n (+ n 1)) n))) (define a (counter)) (define b (counter)) (a) (a) (list (a) (b))", "(3 1)\n", ""},
		{"rest parameters", "(define (f a . rest) (list a rest)) (list (f 1) (f 1 2 3))", "((1 ()) (1 (2 3)))\n", ""},
		{"inner definitions", "(define (f x) (define (g y) (* y k)) (define k 3) (g x)) (f 5)", "15\n", ""},
		{"macro", "(define-macro (swap! a b) (let ((t (gensym))) `(let ((,t ,a)) (set! ,a ,b) (set! ,b ,t)))) (define t 1) (define u 2) (swap! t u) (list t u)", "(2 1)\n", ""},
		{"special form as a variable", "(let ((if list)) (if 1 2 3))", "(1 2 3)\n", ""},
		{"library's names as variables", "(define (f list append) `(,list ,@append)) (f 1 '(2))", "(1 2)\n", ""},
		{"quasiquote", "`(1 ,(+ 1 1) ,@(map - '(3 4)) (x ,(* 2 3)) . z)", "(1 2 -3 -4 (x 6) . z)\n", ""},
		{"forms", "(list (let* ((a 1) (b (+ a 1))) b) (cond (#f 1) ((assoc 2 '((2 b)))) (else 3)) (case 5 ((1 2) 'low) ((5) 'five) (else 'high)) (do ((i 0 (+ i 1)) (s 0 (+ s i))) ((= i 5) s)) (and 1 #f 2) (or #f 7))", "(2 (2 b) five 10 #f 7)\n", ""},
		{"eval and apply", "(list (eval (list '+ 1 2)) (eval '(let ((x 2)) (* x x))) (apply max 1 '(5 3)))", "(3 4 5)\n", ""},
		{"divisions", "(list (quotient -7 2) (remainder -7 2) (modulo -7 2) (modulo 7 -2) (expt 2 59) (- (expt -2 59)))", "(-3 -1 1 -1 576460752303423488 576460752303423488)\n", ""},
		{"strings", `(list (string-append "ab" "" "c") (substring "hello" 1 3) (string->number "-12") (string->number "x") (number->string 40) (string->symbol "s") (string<? "ab" "b") (string-ref "a" 0))`, "(\"abc\" \"el\" -12 #f \"40\" s #t 97)\n", ""},
		{"sort is stable", "(sort '((2 a) (1 b) (2 c) (1 d)) (lambda (x y) (< (car x) (car y))))", "((1 b) (1 d) (2 a) (2 c))\n", ""},
		{"tables", `(define t (make-table)) (for-each (lambda (i) (table-set! t (list i "k") (* i i))) (range 1 1000)) (table-set! t '(7 "k") 'new) (list (table-size t) (table-ref t '(999 "k") #f) (table-ref t '(7 "k") #f) (table-ref t 'x 'none))`, "(1000 998001 new none)\n", ""},

		// A gigabyte of garbage beside data that has to survive it, some of it only from what
		// initialisation left, where the collector doesn't look without being told.
		{"garbage", garbage + `(define kept (map (lambda (i) (list i (number->string i))) (range 1 20000)))
			(vector-set! primes 0 (list 'kept "too")) (set-cdr! (table-entry numbers-by-name "six") (list 6))
			(set! tens (vector 'new)) (define lookup (let ((x (list 1))) (lambda () x)))
			(garbage 120000) (list (length kept) (list-ref kept 19999) (vector-ref primes 0) (name-number "six") tens (lookup))`,
			`(20000 (20000 "20000") (kept "too") (6) #(new) (1))` + "\n", ""},
		{"garbage leaves nothing", garbage + "(let ((before 0)) (set! before (live-bytes)) (garbage 20000) (- (live-bytes) before))", "0\n", ""},

		// Values of the tables that are well known.
		{"primes", "(list (prime? 7919) (prime? 7917) (prime? 1) (nth-prime 1000) (sum (vector->list primes)) (prime? 1000000007) (factor 600851475143))", "(#t #f #f 7919 37550402023 #t (71 839 1471 6857))\n", ""},
		{"totients", "(do ((n 1 (+ n 1)) (s 0 (+ s (totient n)))) ((> n 1000000) s))", "303963552392\n", ""},
		{"perfect and amicable", "(define (other n) (- (divisor-sum n) n)) (list (filter perfect? (range 1 10000)) (sum (filter (lambda (n) (and (not (perfect? n)) (= (other (other n)) n))) (range 2 9999))))", "((6 28 496 8128) 31626)\n", ""},
		{"Collatz", "(do ((n 1 (+ n 1)) (best 1 (if (> (collatz-length n) (collatz-length best)) n best))) ((> n 500000) (list best (collatz-length best))))", "(410011 448)\n", ""},
		{"binomials and Fibonacci", "(list (binomial 60 30) (fibonacci 88) (sum (vector->list (vector-ref binomials 20))))", "(118264581564861424 1100087778366101931 1048576)\n", ""},
		{"names", `(list (number-name 1234567) (number-name 40) (name-number "fifty-nine thousand nine hundred ninety-nine") (name-number "eleventy") (letter-chain 27) (sum (map (lambda (n) (letters (number-name n))) (range 1 99))))`, `("one million two hundred thirty-four thousand five hundred sixty-seven" "forty" 59999 #f (27 11 6 3 5 4) 854)` + "\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, printed, _ := invoke(t, code, tt.program)
			if r.Outcome != call.Returned {
				t.Fatalf("%v: %+v", r.Outcome, r.Failure)
			}
			wantPrinted, wantCode := "", int32(0)
			if tt.problem != "" {
				wantPrinted, wantCode = "error: "+tt.problem+"\n", 1
			}
			if string(r.Output) != tt.output || printed != wantPrinted || r.ReturnCode != wantCode {
				t.Errorf("%.200s\nsays %.300q, prints %.200q and returns %d\nwant %.300q, %.200q and %d",
					tt.program, r.Output, printed, r.ReturnCode, tt.output, wantPrinted, wantCode)
			}
		})
	}
}

// A call writes few of the pages that initialisation filled, unless it is told to.
func TestLisp_pagesWritten(t *testing.T) {
	code := ready(t, "lisp")
	few := 0
	for _, tt := range []struct {
		program, output string
		written         int // pages more than the first program writes
	}{
		{"(prime? 7919)", "#t\n", 0},
		{"(touch 0)", "0\n", 0},
		{"(touch 1048576)", "256\n", 256},
		{"(touch 33554432)", "8192\n", 8192},
	} {
		r, _, dirty := invoke(t, code, tt.program)
		if string(r.Output) != tt.output {
			t.Errorf("%s says %q; want %q", tt.program, r.Output, tt.output)
		}
		if few == 0 {
			few = dirty
		}
		// What the two write besides may differ by a few pages, or be among those touched.
		if dirty < tt.written || dirty > few+tt.written+8 || few > 64 {
			t.Errorf("%s wrote %d pages; want about %d and %d", tt.program, dirty, few, tt.written)
		}
	}
}
