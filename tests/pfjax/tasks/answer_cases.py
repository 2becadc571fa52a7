r"""Answers in the styles of MATH-500, GSM8K and AIME, written for these tests.

Of a line of EQUAL all are the same; `~~` stands before those whose form alone does not tell, and a computer
algebra system does. The two of a line of DIFFERENT are not the same.
"""

EQUAL = r"""
18 ¦ \$18 ¦ $18$ ¦ 18.0 ¦ 18. ¦ 18\text{ dollars} ¦ 18 dollars ¦ x=18
18 ¦ x = 18 ¦ 018 ¦ \text{18} ¦ 18.00 ¦ \$18.00 ¦ +18 ¦ \(18\) ¦ \mathbf{18}
14916 ¦ 14,916 ¦ 14{,}916 ¦ 14\,916 ¦ 14\!,916 ¦ 14,\!916 ¦ \$14,916 ¦ 14,916 votes
50 ¦ 50\% ¦ 50% ¦ 50 \% ¦ 50 percent
90 ¦ 90^\circ ¦ 90^{\circ} ¦ 90° ¦ 90 degrees ¦ 90\degree
1/2 ¦ \frac12 ¦ \frac{1}{2} ¦ \dfrac{1}{2} ¦ \tfrac12 ¦ 0.5 ¦ .5 ¦ 2/4 ¦ \frac {2} {4} ¦ 0.50
3/4 ¦ \frac {3}{4} ¦ \frac34 ¦ 0.75 ¦ 75/100
-1/2 ¦ -\frac{1}{2} ¦ \frac{-1}{2} ¦ -0.5 ¦ −\frac12 ¦ \frac{1}{-2}
-5 ¦ −5 ¦ -5.0 ¦ - 5
3/2 ¦ 1\frac{1}{2} ¦ 1 1/2 ¦ 1.5 ¦ \frac{3}{2}
\sqrt{3} ¦ \sqrt3 ¦ \sqrt {3} ¦ sqrt(3)
\frac{\sqrt{3}}{2} ¦ \frac{\sqrt3}2 ¦ \sqrt{3}/2
2\sqrt{2} ¦ 2\sqrt2 ¦ 2 \sqrt{2} ~~ \sqrt{8} ¦ \frac{4}{\sqrt{2}}
(1,2) ¦ \left(1,2\right) ¦ (1, 2) ¦ ( 1 , 2 ) ¦ \left( 1, \frac{4}{2} \right)
(3, \frac{\pi}{2}) ¦ \left( 3, \frac{\pi}{2} \right) ¦ (3,\pi/2)
[0,1) ¦ \left[0,1\right) ¦ [0, 1)
(-\infty, 3] ¦ (-\infty,3] ¦ \left(-\infty, 3\right]
1, 2 ¦ 2, 1 ¦ 1 and 2 ¦ 1,2 ¦ \{1,2\} ¦ \{2, 1\} ¦ x=1, x=2 ¦ 1 or 2
-2, 2 ¦ \pm 2 ¦ x = \pm 2 ¦ 2, -2
-1, 0, 4 ¦ 4, 0, -1 ¦ -1,0,4 ¦ 0, 4, and -1
120000 ¦ 120,000 ¦ 1.2 \times 10^{5} ¦ 1.2e5 ¦ 1.2 \cdot 10^5
5000000 ¦ 5 million ¦ 5{,}000{,}000
A ¦ \text{A} ¦ (A) ¦ \text{(A)} ¦ \mathrm{A} ¦ \textbf{(A)}
yes ¦ Yes ¦ \text{Yes} ¦ \text{yes}.
even ¦ \text{even} ¦ Even
Evelyn ¦ \text{Evelyn} ¦ evelyn
x^2+1 ¦ x^{2}+1 ¦ x^2 + 1 ¦ y = x^2+1 ~~ 1+x^2
\frac{x+1}{2} ¦ (x+1)/2 ¦ \dfrac{x+1}{2} ~~ \frac{x}{2}+\frac{1}{2}
2x ¦ 2*x ¦ 2 \cdot x ¦ 2x.
\pi ¦ π ¦ \pi.
\frac{\pi}{2} ¦ \pi/2 ~~ \frac{2\pi}{4} ¦ 0.5\pi
15 ¦ 15\mbox{ cm}^2 ¦ 15 cm ¦ 15\text{ cm} ¦ 15\,\text{cm} ¦ 15 \text{ square units} ¦ 15 inches
27 ¦ 27 ¦ 027 ¦ 27.0 ¦ \$27
204 ¦ 204. ¦ \boldsymbol{204} ¦ 204\text{ ways}
3.14 ¦ 3.140 ¦ 157/50
2/3 ¦ \frac23 ¦ \frac{2}{3} ¦ 4/6 ¦ \frac{4}{6}
0 ¦ 0.0 ¦ -0 ¦ \$0 ¦ 0\%
7 ¦ 7 apples ¦ 7\text{ apples} ¦ 7 people ¦ 7 hours
2k+2 ¦ 2k + 2 ~~ 2(k+1) ¦ 2+2k
x^2-1 ¦ x^{2}-1 ~~ (x-1)(x+1)
2.5x ¦ 2.5 x ~~ \frac{5x}{2} ¦ 5x/2
\frac{1}{\sqrt{2}} ¦ 1/\sqrt{2} ~~ \frac{\sqrt{2}}{2}
2^{10} ¦ 2^10 ¦ 2^{10}. ~~ 1024
809 ¦ \textbf{809} ¦ n = 809 ¦ \text{809}
64 ¦ 64 cubes ¦ 64\text{ cm}^3 ¦ \$64 ¦ 64.000
x^2 ¦ x² ¦ x^{2}
5/2 ¦ 2½ ¦ 2\frac12 ¦ 2 1 / 2 ¦ 2.5
-3/2 ¦ - 1 \frac{1}{2} ¦ -1\frac12
x=2, y=3 ¦ y=3, x=2 ¦ x = 2 and y = 3
x^{2}y ¦ x²y
36 ¦ 3 dozen ¦ 3 dozens
300000 ¦ 3 hundred thousand
9.99 ¦ \$9.99 ¦ 9.990 ¦ 999/100
10\sqrt{5} ¦ 10\sqrt5 ~~ \sqrt{500}
"""

DIFFERENT = r"""
5² ¦ 52
x² ¦ x2
x=2, y=3 ¦ x=3, y=2
a=1 and b=2 ¦ a=2 and b=1
2^{3}5 ¦ 2^{35}
a^{b}c ¦ a^{bc}
- 1 \frac{1}{2} ¦ -\frac{11}{2}
1 1 / 2 ¦ 11/2
1/2 3 ¦ 1/23
1 2 ¦ 12
3½ ¦ \frac{31}{2}
x_1 ¦ x1
3 dozen ¦ 3
3 hundred thousand ¦ 300
2 thirds ¦ 2
3 halves ¦ 3
5 squared ¦ 5
5 factorial ¦ 5
5 plus x ¦ 5
5 below zero ¦ 5
12:30 ¦ 12/30
5m ¦ 5
5i ¦ 5
(1,234) ¦ (1234)
32, 349 ¦ 32349
100,200,300 ¦ 100200300
(0,1) ¦ [0,1]
[0,1) ¦ [0,1]
2/3 ¦ 23
x+1 ¦ x1
-5 ¦ 5
\frac{1}{23} ¦ \frac{12}{3}
5 am ¦ 5 pm
2^3 ¦ 23
1.5 ¦ 15
(1,2) ¦ (2,1)
5! ¦ 5
x^2 ¦ x2
\sqrt{2}3 ¦ \sqrt{23}
1/2 ¦ 1/3
10 ¦ 1
12_3 ¦ 12_4
3-4i ¦ 3+4i
2\frac{1}{3} ¦ 21/3
A ¦ B
2x ¦ 2y
5x ¦ 5
3 ¦ 3i
1,2 ¦ 12
1, 2, 3 ¦ 1, 23
\frac{1}{x} ¦ 1
0.3333 ¦ 1/3
0.333333 ¦ 1/3
1e3 ¦ 13
yes ¦ no
even ¦ odd
18 ¦ 81
18 ¦ 18.5
\$18 ¦ \$1.8
14,916 ¦ 14,961
14,916 ¦ 14.916
50\% ¦ 5\%
90^\circ ¦ 9^\circ
\frac{1}{2} ¦ \frac{2}{1}
\frac{3}{4} ¦ -\frac{3}{4}
3/4 ¦ 3/5
\sqrt{3} ¦ 3
\sqrt{3} ¦ \sqrt{5}
\sqrt[3]{2} ¦ \sqrt{2}
2\sqrt{2} ¦ \sqrt{2}
2\sqrt{2} ¦ 2\sqrt{3}
\frac{\sqrt{3}}{2} ¦ \frac{\sqrt{2}}{3}
(1,2) ¦ (1,3)
(1,2) ¦ (1,2,3)
(1,2) ¦ 1
1, 2 ¦ 1
1 ¦ 1, 2
1, 2 ¦ 1, 3
1, 2 ¦ (1,2)
\{1,2\} ¦ \{1,2,3\}
\pm 2 ¦ 2
-2, 2 ¦ -2
(-\infty, 3] ¦ (-\infty, 3)
(-\infty, 3] ¦ (-\infty, -3]
(3, \frac{\pi}{2}) ¦ (3, \frac{\pi}{3})
x^2+1 ¦ x^2-1
x^2+1 ¦ x^3+1
\frac{x+1}{2} ¦ x+\frac{1}{2}
x+1/2 ¦ (x+1)/2
\pi ¦ 3.14
\pi ¦ 2\pi
\frac{\pi}{2} ¦ \frac{\pi}{3}
\frac{2}{\pi} ¦ \frac{\pi}{2}
2k+2 ¦ 2k+1
y = 2x+3 ¦ y = 3x+2
(x-1)(x+1) ¦ x^2+1
2^{10} ¦ 2^{100}
2^{10} ¦ 20
10^{5} ¦ 105
1.2 \times 10^{5} ¦ 1.2 \times 10^{4}
5 million ¦ 5
5 million ¦ 5 thousand
1000000 ¦ 100000
204 ¦ 205
204 ¦ 2040
204 ¦ 024
70 ¦ 07
7 apples ¦ 8 apples
Evelyn ¦ Angela
\text{ellipse} ¦ \text{parabola}
a ¦ b
n ¦ m
x ¦ -x
x ¦ 2x
x+y ¦ x-y
xy ¦ x+y
ab ¦ a
5ab ¦ 5
6xy ¦ 6
\frac{a}{b} ¦ \frac{b}{a}
a/b ¦ ab
i ¦ 1
1+i ¦ 1-i
e ¦ 1
e^2 ¦ e
\ln 2 ¦ 2
\log 2 ¦ \log 3
\sin 30 ¦ \cos 30
\begin{pmatrix}1&2\\3&4\end{pmatrix} ¦ \begin{pmatrix}1&2\\3&5\end{pmatrix}
\begin{pmatrix}1\\2\end{pmatrix} ¦ \begin{pmatrix}2\\1\end{pmatrix}
\binom{5}{2} ¦ \binom{5}{1}
5^2 ¦ 52
4^{3} ¦ 43
0.1 ¦ 0.01
0.05 ¦ 0.5
.25 ¦ 25
1/3 ¦ 0.3
11/2 ¦ 1 1/2
1\frac12 ¦ \frac{11}{2}
-1 ¦ 1, -1
0 ¦ 1
0 ¦ \infty
\infty ¦ -\infty
x=5 ¦ y=6
x<5 ¦ x>5
x \le 5 ¦ x < 5
1:2 ¦ 2:1
3:30 ¦ 330
12:00 ¦ 12
(2, 3) ¦ [2, 3]
\frac{7}{9} ¦ \frac{9}{7}
113 ¦ 131
"""


def equal_pairs() -> list[tuple[str, str, bool]]:
    """(one, another, whether their forms are the same) of every line, each with the first."""
    pairs = []
    for line in EQUAL.strip().splitlines():
        by_form, _, by_algebra = line.partition("~~")
        first, *rest = [text.strip() for text in by_form.split("¦") if text.strip()]
        pairs += [(first, text, True) for text in rest]
        others = [text.strip() for text in by_algebra.split("¦") if text.strip()]
        pairs += [(first, text, False) for text in others]
    return pairs


def different_pairs() -> list[tuple[str, str]]:
    """The two of every line."""
    lines = DIFFERENT.strip().splitlines()
    return [tuple(text.strip() for text in line.split("¦")) for line in lines]  # pyright: ignore[reportReturnType]
