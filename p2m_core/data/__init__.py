"""Reading data sets, and the processed store that training reads."""
