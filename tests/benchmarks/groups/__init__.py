"""What is measured, group by group. Each group is a function of the session; it adds samples, figures and curves."""
