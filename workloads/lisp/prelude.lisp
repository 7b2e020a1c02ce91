; The library of the Lisp in lisp.c. It is read and evaluated once, when the function is
; uploaded; what it defines, and the tables that it computes, start every call.

; Syntax. The core has quote, if, define, set!, lambda, begin, %let and define-macro; the rest
; is here. Macros put functions themselves, not their names, into what they make, so that a
; program may call a variable of its own "list" or "append".

(define (cadr x) (car (cdr x)))
(define (cddr x) (cdr (cdr x)))
(define (caar x) (car (car x)))
(define (cdar x) (cdr (car x)))
(define (caddr x) (car (cddr x)))

(define (reverse-onto list tail)
  (if (null? list)
      tail
      (reverse-onto (cdr list) (cons (car list) tail))))

(define (reverse list) (reverse-onto list '()))

(define (append . lists)
  (define (join lists)
    (if (null? lists)
        '()
        (if (null? (cdr lists))
            (car lists)
            (reverse-onto (reverse (car lists)) (join (cdr lists))))))
  (join lists))

(define (quasi x)
  (if (pair? x)
      (if (eq? (car x) 'unquote)
          (cadr x)
          (if (if (pair? (car x)) (eq? (caar x) 'unquote-splicing) #f)
              (list append (cadr (car x)) (quasi (cdr x)))
              (list cons (quasi (car x)) (quasi (cdr x)))))
      (list 'quote x)))

(define-macro (quasiquote x) (quasi x))

(define (map1 f list)
  (define (next list done)
    (if (null? list)
        (reverse done)
        (next (cdr list) (cons (f (car list)) done))))
  (next list '()))

; (let ((NAME VALUE)...) BODY...), or a loop: (let NAME ((NAME VALUE)...) BODY...)
(define-macro (let bindings . body)
  (if (symbol? bindings)
      `((%let ((,bindings #f))
          (set! ,bindings (lambda ,(map1 car (car body)) ,@(cdr body)))
          ,bindings)
        ,@(map1 cadr (car body)))
      `(%let ,bindings ,@body)))

(define-macro (let* bindings . body)
  (if (null? bindings)
      `(%let () ,@body)
      `(%let (,(car bindings)) (let* ,(cdr bindings) ,@body))))

(define-macro (letrec bindings . body)
  `(%let ,(map1 (lambda (b) (list (car b) #f)) bindings)
     ,@(map1 (lambda (b) `(set! ,(car b) ,(cadr b))) bindings)
     (%let () ,@body)))

(define-macro (and . tests)
  (if (null? tests)
      #t
      (if (null? (cdr tests))
          (car tests)
          `(if ,(car tests) (and ,@(cdr tests)) #f))))

(define-macro (or . tests)
  (if (null? tests)
      #f
      (if (null? (cdr tests))
          (car tests)
          (let ((t (gensym)))
            `(%let ((,t ,(car tests))) (if ,t ,t (or ,@(cdr tests))))))))

(define-macro (when test . body) `(if ,test (begin ,@body)))
(define-macro (unless test . body) `(if ,test (begin) (begin ,@body)))

(define-macro (cond . clauses)
  (if (null? clauses)
      '(begin)
      (let ((test (caar clauses)) (body (cdar clauses)) (others (cdr clauses)))
        (cond-clause test body others))))

(define (cond-clause test body others)
  (if (eq? test 'else)
      `(begin ,@body)
      (if (null? body)
          `(or ,test (cond ,@others))
          `(if ,test (begin ,@body) (cond ,@others)))))

; (case KEY ((DATUM...) BODY...)... (else BODY...))
(define-macro (case key . clauses)
  (let ((k (gensym)))
    `(%let ((,k ,key))
       (cond ,@(map1 (lambda (c)
                       (if (eq? (car c) 'else)
                           c
                           `((,member ,k ',(car c)) ,@(cdr c))))
                     clauses)))))

; (do ((NAME START STEP)...) (TEST RESULT...) BODY...)
(define-macro (do bindings end . body)
  (let ((loop (gensym)))
    `(let ,loop ,(map1 (lambda (b) (list (car b) (cadr b))) bindings)
       (if ,(car end)
           (begin ,@(cdr end))
           (begin
             ,@body
             (,loop ,@(map1 (lambda (b) (if (null? (cddr b)) (car b) (caddr b))) bindings)))))))

; Lists.

(define (map f list . others)
  (if (null? others)
      (map1 f list)
      (let next ((lists (cons list others)) (done '()))
        (if (memq '() lists)
            (reverse done)
            (next (map1 cdr lists) (cons (apply f (map1 car lists)) done))))))

(define (for-each f list)
  (unless (null? list)
    (f (car list))
    (for-each f (cdr list))))

(define (filter keep? list)
  (let next ((list list) (kept '()))
    (cond ((null? list) (reverse kept))
          ((keep? (car list)) (next (cdr list) (cons (car list) kept)))
          (else (next (cdr list) kept)))))

(define (fold f start list)
  (if (null? list)
      start
      (fold f (f start (car list)) (cdr list))))

(define (length list) (fold (lambda (n x) (+ n 1)) 0 list))
(define (sum list) (apply + list))

(define (list-tail list n) (if (= n 0) list (list-tail (cdr list) (- n 1))))
(define (list-ref list n) (car (list-tail list n)))

(define (take list n)
  (let next ((list list) (n n) (taken '()))
    (if (or (= n 0) (null? list))
        (reverse taken)
        (next (cdr list) (- n 1) (cons (car list) taken)))))

; The integers from FROM to TO, both included.
(define (range from to)
  (do ((i to (- i 1)) (list '() (cons i list)))
      ((< i from) list)))

(define (memq x list)
  (cond ((null? list) #f)
        ((eq? (car list) x) list)
        (else (memq x (cdr list)))))

(define (member x list)
  (cond ((null? list) #f)
        ((equal? (car list) x) list)
        (else (member x (cdr list)))))

(define (assoc key pairs)
  (cond ((null? pairs) #f)
        ((equal? (caar pairs) key) (car pairs))
        (else (assoc key (cdr pairs)))))

; A stable merge sort.
(define (sort list before?)
  (define (merge a b done)
    (cond ((null? a) (reverse-onto done b))
          ((null? b) (reverse-onto done a))
          ((before? (car b) (car a)) (merge a (cdr b) (cons (car b) done)))
          (else (merge (cdr a) b (cons (car a) done)))))
  (define (sorted list n)
    (if (< n 2)
        (take list n)
        (let ((half (quotient n 2)))
          (merge (sorted list half) (sorted (list-tail list half) (- n half)) '()))))
  (sorted list (length list)))

; Numbers.

(define (abs n) (if (< n 0) (- n) n))
(define (min a . others) (fold (lambda (a b) (if (< b a) b a)) a others))
(define (max a . others) (fold (lambda (a b) (if (> b a) b a)) a others))
(define (even? n) (= (remainder n 2) 0))
(define (odd? n) (not (even? n)))
(define (gcd a b) (if (= b 0) (abs a) (gcd b (remainder a b))))

(define (expt base n)
  (let next ((base base) (n n) (product 1))
    (cond ((= n 0) product)
          ((odd? n) (next base (- n 1) (* product base)))
          (else (next (* base base) (quotient n 2) product)))))

; Text and vectors.

(define (newline) (display "\n"))
(define (print . values) (apply display values) (newline))

(define (join strings between)
  (if (null? strings)
      ""
      (apply string-append
             (car strings)
             (fold (lambda (parts s) (append parts (list between s))) '() (cdr strings)))))

(define (vector->list v)
  (do ((i (- (vector-length v) 1) (- i 1)) (list '() (cons (vector-ref v i) list)))
      ((< i 0) list)))

(define (list->vector list) (apply vector list))

; Sets V[I] to (f I), for I from FROM to the end.
(define (vector-compute! v from f)
  (do ((i from (+ i 1))) ((= i (vector-length v)) v)
    (vector-set! v i (f i))))

; Tables: from keys, compared by equal?, to values. A table is a vector of its size and a
; vector of buckets, lists of (KEY . VALUE), of which it has as many as entries or more.

(define (make-table . room)
  (vector 0 (make-vector (if (null? room) 16 (car room)) '())))

(define (table-size t) (vector-ref t 0))

(define (bucket-index buckets key) (remainder (hash key) (vector-length buckets)))

(define (table-entry t key)
  (let ((buckets (vector-ref t 1)))
    (assoc key (vector-ref buckets (bucket-index buckets key)))))

(define (table-ref t key otherwise)
  (let ((entry (table-entry t key)))
    (if entry (cdr entry) otherwise)))

(define (bucket-add! buckets entry)
  (let ((i (bucket-index buckets (car entry))))
    (vector-set! buckets i (cons entry (vector-ref buckets i)))))

(define (table-for-each f t)
  (for-each (lambda (bucket) (for-each (lambda (e) (f (car e) (cdr e))) bucket))
            (vector->list (vector-ref t 1))))

(define (table-grow! t)
  (let ((buckets (make-vector (* 2 (vector-length (vector-ref t 1))) '())))
    (table-for-each (lambda (key value) (bucket-add! buckets (cons key value))) t)
    (vector-set! t 1 buckets)))

(define (table-set! t key value)
  (let ((entry (table-entry t key)))
    (if entry
        (set-cdr! entry value)
        (begin
          (when (= (table-size t) (vector-length (vector-ref t 1))) (table-grow! t))
          (bucket-add! (vector-ref t 1) (cons key value))
          (vector-set! t 0 (+ (table-size t) 1))))))

; What follows takes the second or two: the tables. First those of many small objects, since
; then a collection has little to go through; then those that are vectors of integers.

; The English names of numbers, and from a name back to the number.

(define below-twenty
  #("zero" "one" "two" "three" "four" "five" "six" "seven" "eight" "nine" "ten" "eleven"
    "twelve" "thirteen" "fourteen" "fifteen" "sixteen" "seventeen" "eighteen" "nineteen"))
(define tens
  #("" "" "twenty" "thirty" "forty" "fifty" "sixty" "seventy" "eighty" "ninety"))

(define (spell n)
  (define (with-rest head rest between)
    (if (= rest 0) head (string-append head between (spell rest))))
  (cond ((< n 20) (vector-ref below-twenty n))
        ((< n 100) (with-rest (vector-ref tens (quotient n 10)) (remainder n 10) "-"))
        ((< n 1000)
         (with-rest (string-append (spell (quotient n 100)) " hundred") (remainder n 100) " "))
        ((< n 1000000)
         (with-rest (string-append (spell (quotient n 1000)) " thousand") (remainder n 1000) " "))
        (else
         (with-rest (string-append (spell (quotient n 1000000)) " million")
                    (remainder n 1000000) " "))))

(define names (vector-compute! (make-vector 60000 "") 0 spell))

(define numbers-by-name
  (let ((t (make-table (vector-length names))))
    (do ((n 0 (+ n 1))) ((= n (vector-length names)) t)
      (table-set! t (vector-ref names n) n))))

(define (number-name n) (if (< n (vector-length names)) (vector-ref names n) (spell n)))

; #f for what is no name.
(define (name-number name) (table-ref numbers-by-name name #f))

(define (letters string)
  (let next ((i 0) (count 0))
    (if (= i (string-length string))
        count
        (next (+ i 1) (if (>= (string-ref string i) 97) (+ count 1) count)))))

; From n to the number of letters of its name, and so on, which always ends at four.
(define (letter-chain n)
  (if (= n 4)
      '(4)
      (cons n (letter-chain (letters (number-name n))))))

; Pascal's triangle.
(define binomials
  (let ((rows (make-vector 61 #(1))))
    (vector-compute! rows 1
      (lambda (n)
        (let ((above (vector-ref rows (- n 1))))
          (vector-compute! (make-vector (+ n 1) 1) 1
            (lambda (k)
              (if (= k n) 1 (+ (vector-ref above (- k 1)) (vector-ref above k))))))))))

(define (binomial n k) (vector-ref (vector-ref binomials n) k))

(define fibonaccis
  (let ((v (vector-compute! (make-vector 89 0) 1 (lambda (n) 1))))
    (vector-compute! v 2 (lambda (n) (+ (vector-ref v (- n 1)) (vector-ref v (- n 2)))))))

(define (fibonacci n) (vector-ref fibonaccis n))

(define factors-limit 1000000)

; For each n its smallest factor but 1, by the sieve of Eratosthenes.
(define smallest-factors
  (let ((v (make-vector (+ factors-limit 1) 0)))
    (do ((p 2 (+ p 1))) ((> (* p p) factors-limit))
      (when (= (vector-ref v p) 0)
        (do ((n (* p p) (+ n p))) ((> n factors-limit))
          (when (= (vector-ref v n) 0) (vector-set! v n p)))))
    (vector-compute! v 1 (lambda (n) (if (= (vector-ref v n) 0) n (vector-ref v n))))))

(define (smallest-factor n)
  (if (<= n factors-limit)
      (vector-ref smallest-factors n)
      (let next ((i 0))
        (cond ((= i (vector-length primes)) (error "no factor is known of" n))
              ((> (* (vector-ref primes i) (vector-ref primes i)) n) n)
              ((= (remainder n (vector-ref primes i)) 0) (vector-ref primes i))
              (else (next (+ i 1)))))))

(define (prime? n) (and (> n 1) (= (smallest-factor n) n)))

(define primes
  (let next ((n factors-limit) (found '()))
    (cond ((< n 2) (list->vector found))
          ((= (vector-ref smallest-factors n) n) (next (- n 1) (cons n found)))
          (else (next (- n 1) found)))))

; The first is 2.
(define (nth-prime n) (vector-ref primes (- n 1)))

; The prime factors, the smallest first.
(define (factor n)
  (let next ((n n) (found '()))
    (if (< n 2)
        (reverse found)
        (let ((p (smallest-factor n)))
          (next (quotient n p) (cons p found))))))

; Euler's function: how many of 1 to n have no factor in common with n.
(define totients
  (let ((v (make-vector (+ factors-limit 1) 1)))
    (vector-compute! v 2
      (lambda (n)
        (let* ((p (vector-ref smallest-factors n)) (rest (quotient n p)))
          (* (vector-ref v rest)
             (if (= (remainder rest p) 0) p (- p 1))))))))

(define (totient n) (vector-ref totients n))

; The sum of the divisors of n, itself among them: S(pm) = (p + 1) S(m), less p S(m / p) if p
; divides m.
(define divisor-sums
  (let ((v (make-vector (+ factors-limit 1) 1)))
    (vector-compute! v 2
      (lambda (n)
        (let* ((p (vector-ref smallest-factors n)) (m (quotient n p)))
          (- (* (+ p 1) (vector-ref v m))
             (if (= (remainder m p) 0) (* p (vector-ref v (quotient m p))) 0)))))))

(define (divisor-sum n) (vector-ref divisor-sums n))
(define (perfect? n) (= (divisor-sum n) (* 2 n)))

; The steps from n to 1 by halving what is even, and going from odd n to 3n + 1.
(define collatz-lengths
  (let ((v (make-vector 500001 0)))
    (vector-compute! v 2
      (lambda (n)
        (let next ((m n) (steps 0))
          (cond ((< m n) (+ steps (vector-ref v m)))
                ((even? m) (next (quotient m 2) (+ steps 1)))
                (else (next (+ (* 3 m) 1) (+ steps 1)))))))))

(define (collatz-length n) (vector-ref collatz-lengths n))

(print "lisp: " (vector-length primes) " primes, factors, totients and divisor sums to "
       factors-limit ", " (- (vector-length collatz-lengths) 1) " Collatz sequences and "
       (table-size numbers-by-name) " names of numbers, " (live-bytes) " bytes in all")
